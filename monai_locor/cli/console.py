# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Output of a command: text or one JSON object on stdout, and the log on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

__all__ = ["Console", "console_of", "plain_values", "session", "threads", "write_json"]


class Console:
    """Prints the output of a command.

    Args:
        machine: print one JSON object instead of text.
        quiet: suppress text.
        out: the real stdout; with ``machine``, nothing else may write to it.
        command: name of the command, included in the JSON object.

    Attributes:
        interrupted: exit code after an interrupt: 130 for Ctrl-C, 143 for SIGTERM.
    """

    interrupted = 130

    def __init__(self, machine: bool = False, quiet: bool = False, out: TextIO | None = None, command: str = "") -> None:
        self.machine, self.quiet, self.command = machine, quiet, command
        self.out = sys.stdout if out is None else out

    def say(self, line: str = "") -> None:
        """Print a line of text."""
        if not (self.machine or self.quiet):
            encoding = getattr(self.out, "encoding", None) or "utf-8"
            shown = line.encode(encoding, "backslashreplace").decode(encoding)  # file names may be no text
            print(shown, file=self.out, flush=True)

    def answer(self, values: Mapping[str, Any], code: int = 0) -> int:
        """Print the result as JSON if requested. Returns the exit code."""
        if self.machine:
            content = {"command": self.command, "exit_code": code, **values}
            print(json.dumps(plain_values(content), allow_nan=False), file=self.out, flush=True)
        return code

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar: only on a terminal, and neither with ``--json`` nor ``--quiet``."""
        return not (self.machine or self.quiet) and sys.stderr.isatty()


def console_of(args: argparse.Namespace) -> Console:
    """The console of the running command; a default one if none was set up."""
    found = getattr(args, "console", None)
    return found if isinstance(found, Console) else Console()


def plain_values(value: Any) -> Any:
    """Convert to JSON types; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain_values(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if hasattr(value, "tolist"):  # tensors, arrays, and their numbers
        return plain_values(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def write_json(path: Path, values: Mapping[str, Any]) -> Path:
    """Write values as a JSON file; it appears only when it is complete."""
    from ..io.paths import write_json as write_plain

    write_plain(path, plain_values(values))
    return path


class _Stderr(logging.Handler):
    """Logs to stderr without breaking a progress bar. Identical warnings are shown once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        line = f"{record.levelname.lower()}: {self.format(record)}"
        if record.levelno == logging.WARNING and line in self.warned:
            return
        self.warned.add(line)
        tqdm.write(line, file=sys.stderr)


@contextmanager
def session(args: argparse.Namespace) -> Iterator[None]:
    """Set up logging, warnings and stdout according to the options, and restore them afterwards."""
    logger = logging.getLogger("monai_locor")
    level = logging.ERROR if args.quiet else {0: logging.WARNING, 1: logging.INFO}.get(args.verbose, logging.DEBUG)
    handler, before = _Stderr(level), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(min(level, logging.WARNING))  # warnings hidden by --quiet are still stored with the result
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            if not args.verbose:
                warnings.simplefilter("ignore")  # from other packages; our own messages are logged
            if args.console.machine:
                with redirect_stdout(sys.stderr):
                    yield
            else:
                yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Set the number of CPU threads of torch and restore it afterwards; None changes nothing."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def listed(paths: list[Path], folder: Path) -> str:
    """File names relative to a folder, as one string."""
    return ", ".join(sorted(str(p.relative_to(folder)) if p.is_relative_to(folder) else str(p) for p in paths))
