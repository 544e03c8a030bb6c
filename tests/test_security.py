# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files are data: the package has no call that could run what a file contains (SECURITY.md)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_locor import RegistrationConfig
from monai_locor.errors import InputError

ROOT = Path(__file__).parents[1]
SOURCES = [*sorted((ROOT / "monai_locor").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
# keyword that has to be given, and its only safe value
READERS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
FORBIDDEN = {
    *("eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen"),
    *("shutil.unpack_archive", "torch.jit.load", "torch.hub.load"),
}
PARSERS = ("ConfigParser", "ConfigWorkflow", "load_bundle_config")


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or attribute, otherwise empty."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe_calls(source: str) -> Iterator[str]:
    """Lines and names of calls that could run what they read."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name in FORBIDDEN or name.endswith(".extractall"):
            yield f"{node.lineno}: {name}"
        if any(k.arg == "shell" and not (isinstance(k.value, ast.Constant) and k.value.value is False) for k in node.keywords):
            yield f"{node.lineno}: {name} with a shell"
        if name in READERS:
            keyword, value = READERS[name]
            given = [k.value.value for k in node.keywords if k.arg == keyword and isinstance(k.value, ast.Constant)]
            if given != [value]:
                yield f"{node.lineno}: {name} without {keyword}={value}"


@pytest.mark.parametrize("folder", ["monai_locor", "benchmarks"])
def test_no_call_runs_what_a_file_contains(folder):
    files = [path for path in SOURCES if path.relative_to(ROOT).parts[0] == folder]
    found = [f"{path.relative_to(ROOT)}:{call}" for path in files for call in unsafe_calls(path.read_text(encoding="utf-8"))]
    assert files and not found, found


def test_only_the_bundle_uses_the_parser_that_evaluates():
    package = [path for path in SOURCES if "monai_locor" in path.relative_to(ROOT).parts]
    users = [path for path in package if any(name in path.read_text(encoding="utf-8") for name in PARSERS)]
    assert {path.parent.name for path in users} <= {"bundle"}


@pytest.mark.parametrize(
    "source",
    [
        *("eval(text)", "pickle.load(file)", "torch.load(path)", "torch.load(path, weights_only=False)"),
        *(
            "torch.load(path, weights_only=safe)",
            "np.load(path)",
            "subprocess.run(line, shell=True)",
            "archive.extractall(path)",
        ),
    ],
)
def test_unsafe_calls_are_found(source):
    assert len(list(unsafe_calls(source))) == 1


def test_safe_calls_pass():
    assert not list(unsafe_calls("torch.load(a, weights_only=True); np.load(b, allow_pickle=False); run(c, shell=False)"))


@pytest.mark.parametrize("name", ["settings.json", "settings.py"])
@pytest.mark.parametrize("text", ["open({place!r}, 'w')", "$open({place!r}, 'w')"])
def test_settings_are_data(tmp_path, name, text):
    """Neither Python nor the syntax of MONAI's configurations is run."""
    place, path = str(tmp_path / "ran"), tmp_path / name
    code = text.format(place=place)
    for content in (
        code,
        json.dumps({"similarity": code}),
        json.dumps({"_target_": "builtins.open", "file": place, "mode": "w"}),
    ):
        path.write_text(content)
        with pytest.raises(InputError):
            RegistrationConfig.of(path)
    assert not Path(place).exists()


def test_versions_with_known_faults_are_excluded():
    """MONAI before 1.6 unpickles; before torch 2.10 a crafted checkpoint gets around ``weights_only``."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    core = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    bundle = re.search(r"^bundle = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert core and bundle
    lowest = {name: re.search(rf'"{name}>=([\d.]+)"', part[1]) for name, part in (("monai", core), ("torch", bundle))}
    versions = {name: tuple(map(int, found[1].split("."))) for name, found in lowest.items() if found}
    assert versions["monai"] >= (1, 6) and versions["torch"] >= (2, 10)
