# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The package as a whole: version, imports, license headers, sizes, docstrings."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.resources
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

import monai_locor

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400
HEADER = Path(__file__).read_text(encoding="utf-8").split("\n\n")[0] + "\n"
NOT_SOURCE = {"build", "dist", "demo_output", "node_modules"}
OPTIONAL = (
    *("dask", "distributed", "fire", "ignite", "ipyniivue", "itk", "jsonschema", "matplotlib", "nilearn", "optuna"),
    *("safetensors", "scipy", "sklearn", "tensorboard"),
)
PACKAGES = (
    *("bids", "cli", "cohort", "data", "inferers", "io", "losses", "metrics", "networks", "quality", "registration", "report"),
    *("sets", "tuning", "visualize"),
)

# MONAI imports some of the optional packages itself where they are there, so they are taken away instead of looked for:
# `None` in `sys.modules` makes an import of that name fail.
IMPORT_WITHOUT_OPTIONAL = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))
import importlib
for name in {PACKAGES}:
    importlib.import_module("monai_locor." + name)
"""


def python_files() -> list[Path]:
    """All Python files of the repository, without environments and build outputs."""
    files = list(ROOT.glob("*.py"))
    for folder in ROOT.iterdir():
        skip = folder.name.startswith(".") or folder.name in NOT_SOURCE or (folder / "pyvenv.cfg").exists()
        if folder.is_dir() and not skip:
            files += folder.rglob("*.py")
    return sorted(files)


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes of a module, and the public methods of those classes, by qualified name."""
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        if f"{node.name}.setter" in decorators or decorators & {"overload", "typing.overload"}:
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node.body, f"{prefix}{node.name}.")


def undocumented(path: Path) -> list[str]:
    """Names in one file that are public and have no docstring, the module itself included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [name for name, node in public_definitions(tree.body) if not ast.get_docstring(node)]
    if not ast.get_docstring(tree):
        missing.insert(0, "module")
    return [f"{path.relative_to(ROOT)}: {name}" for name in missing]


def test_version_is_that_of_the_distribution():
    assert monai_locor.__version__ == importlib.metadata.version("monai-locor")


def test_import_is_silent_and_needs_no_optional_package():
    command = [sys.executable, "-c", IMPORT_WITHOUT_OPTIONAL]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_type_marker_is_shipped():
    assert importlib.resources.files(monai_locor).joinpath("py.typed").is_file()
    assert "py.typed" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_file_carries_the_license_header():
    assert "SPDX-License-Identifier: Apache-2.0" in HEADER
    files = python_files()
    assert Path(__file__).resolve() in files
    starts = {path: re.sub(r"\A#!.*\n", "", path.read_text(encoding="utf-8")) for path in files}  # behind the interpreter
    assert [path for path, text in starts.items() if not text.startswith(HEADER)] == []


def absolute_imports(text: str) -> list[str]:
    """The modules of the package that a source file imports by their full name."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return [name for name in names if name.split(".")[0] == "monai_locor"]


def test_the_package_imports_itself_relatively():
    assert absolute_imports("import monai_locor.io\nfrom monai_locor import x\nfrom . import y") == [
        "monai_locor.io",
        "monai_locor",
    ]
    files = sorted((ROOT / "monai_locor").rglob("*.py"))
    assert {path: found for path in files if (found := absolute_imports(path.read_text(encoding="utf-8")))} == {}


def test_no_file_is_too_long():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_every_public_name_is_documented():
    missing = [line for path in sorted((ROOT / "monai_locor").rglob("*.py")) for line in undocumented(path)]
    assert missing == []


def test_the_docstring_check_finds_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "a.py").write_text('class A:\n    """Doc."""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\n')
    assert undocumented(tmp_path / "a.py") == ["a.py: module", "a.py: A.f", "a.py: h"]


def test_every_python_version_is_tested_and_has_pinned_versions():
    """The versions of the classifiers are those of the workflow, and each has at most one pin of every package."""
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    versions = re.findall(r"Python :: (3\.\d+)", metadata)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert f"python: {json.dumps(versions)}" in workflow and f'requires-python = ">={versions[0]}"' in metadata
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    pins = [Requirement(line) for line in lines if line]
    for version in versions:
        here = {"python_version": version, "sys_platform": "linux"}
        names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(here)]
        missing = {pin.name for pin in pins} - set(names)
        assert len(names) == len(set(names)), version
        assert all(name.startswith("mkdocs") for name in missing), (version, missing)  # of the documentation, made with 3.11
