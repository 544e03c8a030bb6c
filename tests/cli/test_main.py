# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The command line as a whole: help, versions, errors, exit codes, JSON, logging, and how quickly it answers."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import monai_locor
from monai_locor.cli import build_parser, compose
from monai_locor.cli import info as command
from monai_locor.cli.main import COMMANDS, main
from monai_locor.cli.parser import EXIT_CODES
from monai_locor.cli.settings import add_settings
from monai_locor.errors import InputError
from monai_locor.registration import PRESETS
from monai_locor.registration.similarity import SIMILARITIES

NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]
HEAVY = ("torch", "numpy", "monai", "itk", "nibabel", "matplotlib")
ALONE = f"""
import sys, types
package = types.ModuleType("monai_locor")  # what is in its __init__ is not the command line's
package.__path__ = [{str(Path(monai_locor.__file__).parent)!r}]
sys.modules["monai_locor"] = package
from monai_locor.cli import build_parser, info, main
"""
HELP = f"""
assert "register" in build_parser().format_help()
print([name for name in {HEAVY!r} if name in sys.modules])
"""
TALK = """
info.check = lambda args: None
info.run = lambda args: [args.console.say("x" * 1000) for _ in range(1000)] and 0
sys.exit(main(["info", "x"]))
"""


def test_the_parser_needs_nothing_heavy():
    found = subprocess.run([sys.executable, "-c", ALONE + HELP], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_help_as_a_module_is_quick_and_loads_nothing_heavy():
    code = "import sys; from monai_locor.__main__ import main; main(['--help'])\n"
    code += f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "exit codes" in found.stdout and found.stderr == "[]\n"


def test_help_names_all_commands_and_exit_codes(run):
    answer = run("--help")
    assert answer.code == 0
    assert all(f"    {name} " in answer.out for name in NAMES)
    assert all(f"  {code} " in answer.out for code in EXIT_CODES)
    assert run("--version").out == f"monai-locor {monai_locor.__version__}\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example_that_parses(run, name):
    answer = run(name, "--help")
    assert answer.code == 0 and "exit codes: 0" in answer.out and "--json" in answer.out
    lines = [line.strip() for line in answer.out.splitlines() if line.startswith(f"  monai-locor {name}")]
    assert lines
    for line in lines:
        assert build_parser().parse_args(line.split()[1:]).command == name


def test_help_lists_the_presets_and_measures_that_there_are():
    parser = argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=1000))
    add_settings(parser)
    text = parser.format_help()
    assert f"{', '.join(PRESETS)} (default" in text and f"measure: {', '.join(SIMILARITIES)} (" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "nonsense"),
        (["info"], "FILE"),
        (["info", "a", "--nonsense"], "--nonsense"),
        (["info", "a", "--threads", "0"], "--threads: must be an integer, 1 or more, got '0'"),
        (["register", "a", "b", "-o", "c", "--seed", "x"], "--seed: must be an integer, 0 or more, got 'x'"),
        (["apply", "a", "-t", "b", "-o", "c", "--lab"], "--lab"),  # no abbreviations
    ],
)
def test_usage_errors_are_one_line(refused, words, message):
    line = refused(*words)
    assert message in line and "--help" in line


def test_without_a_command_the_help_is_shown(run):
    answer = run()
    assert answer.code == 2 and answer.out == "" and "commands:" in answer.err


@pytest.fixture(autouse=True)
def anything_is_a_file(monkeypatch):
    """What these tests are about comes after the check of what is read."""
    monkeypatch.setattr(command, "check", lambda args: None)


def ends(run, monkeypatch, error, *words):
    def fail(args):
        raise error

    monkeypatch.setattr(command, "run", fail)
    return run("info", "x.nii", *words)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("image x:\n bad"), 2, "error: image x: bad\n"),
        (ImportError("pictures need it: pip install 'monai-locor[plot]'"), 2, "error: pictures need it: pip install"),
        (ImportError("no such name"), 3, "internal error: ImportError: no such name"),
        (ValueError("shape"), 3, "internal error: ValueError: shape; please report it; -v shows where"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (torch.OutOfMemoryError("GPU"), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2**60 bytes"), 2, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a.nii"), 2, "/out/a.nii: No space left on device"),
        (OSError("odd"), 3, "internal error: OSError"),
    ],
)
def test_every_end_has_its_code_and_one_line(run, monkeypatch, error, code, message):
    answer = ends(run, monkeypatch, error)
    assert answer.code == code and answer.out == ""
    assert message in answer.err and answer.err.count("\n") == 1
    machine = ends(run, monkeypatch, error, "--json")
    assert machine.code == code
    assert machine.json["command"] == "info" and "\n" not in machine.json["error"]


@pytest.mark.parametrize("action", [signal.SIG_DFL, signal.SIG_IGN])
def test_sigterm_ends_a_command_as_ctrl_c_does_unless_somebody_else_handles_it(run, monkeypatch, action):
    def interrupted(args):
        signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setattr(compose, "check", lambda args: None)
    monkeypatch.setattr(compose, "run", interrupted)
    before = signal.signal(signal.SIGTERM, action)
    try:
        answer = run("compose", "a.tfm", "-o", "new", "--json")
        assert signal.getsignal(signal.SIGTERM) == action
    finally:
        signal.signal(signal.SIGTERM, before)
    default = action == signal.SIG_DFL
    assert answer.code == (143 if default else 0)
    assert ("interrupted" in answer.err) == default and answer.err.count("\n") == default


def test_json_is_written_for_usage_errors_too(run):
    found = run("info", "--json").json
    assert found["exit_code"] == 2 and "FILE" in found["error"]


def test_verbose_shows_where_it_failed(run, monkeypatch):
    assert "Traceback" in ends(run, monkeypatch, ValueError("shape"), "-v").err


def test_nothing_else_reaches_stdout_with_json(run, monkeypatch):
    def chatty(args):
        print("a library speaks")
        return args.console.answer({"value": float("nan"), "path": Path("a"), "tensor": torch.ones(2)})

    monkeypatch.setattr(command, "run", chatty)
    answer = run("info", "x", "--json")
    assert answer.json == {"command": "info", "exit_code": 0, "value": None, "path": "a", "tensor": [1.0, 1.0]}
    assert "a library speaks" in answer.err
    assert "a library speaks" in run("info", "x").out


@pytest.mark.parametrize(
    ("options", "shown"),
    [([], ["warning"]), (["-v"], ["warning", "info"]), (["-q"], []), (["-vv"], ["warning", "info", "debug"])],
)
def test_how_much_is_logged(run, monkeypatch, options, shown):
    def speaks(args):
        for level in ("debug", "info", "warning"):
            getattr(logging.getLogger("monai_locor.somewhere"), level)("of level %s", level)
        args.console.say("summary")
        return 0

    monkeypatch.setattr(command, "run", speaks)
    answer = run("info", "x", *options)
    assert [line.partition(":")[0] for line in answer.err.splitlines()] == sorted(shown, key=["debug", "info", "warning"].index)
    assert answer.out == ("" if "-q" in options else "summary\n")


def test_the_process_is_left_as_it_was(run, monkeypatch):
    logger = logging.getLogger("monai_locor")
    before = (logger.level, logger.propagate, list(logger.handlers), torch.get_num_threads(), warnings.filters[:])
    monkeypatch.setattr(command, "run", lambda args: torch.get_num_threads())
    assert run("info", "x", "--threads", before[3] + 1, "-vv").code == before[3] + 1
    assert before == (logger.level, logger.propagate, list(logger.handlers), torch.get_num_threads(), warnings.filters[:])


def test_warnings_of_other_packages_are_for_the_verbose(run, monkeypatch):
    def warn(args):
        warnings.warn("of a library", stacklevel=1)
        return 0

    monkeypatch.setattr(command, "run", warn)
    assert run("info", "x").err == ""
    with pytest.warns(UserWarning, match="of a library"):
        run("info", "x", "-v")


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen([sys.executable, "-c", ALONE + TALK], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
    process.stderr.close()


def test_main_reads_the_command_line_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["monai-locor", "info", "none.nii.gz", "--json"])
    assert main() == 2
    assert "none.nii.gz" in json.loads(capsys.readouterr().out)["error"]
