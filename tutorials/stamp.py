# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""When and from what the outputs of a tutorial were made, and whether they are stale.

``docs/tutorials/NAME/stamp.json`` holds the date, the commit, a hash of the notebook's code cells and a hash of the package's
code. Markdown cells, comments, docstrings, formatting and the parts that no tutorial runs (`UNUSED`) do not count.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import json
import subprocess
from pathlib import Path

__all__ = ["is_stale", "read", "write"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "monai_locor"
UNUSED = ("cli", "tuning")  # packages in it that no tutorial runs
FILE = "stamp.json"


def is_stale(notebook: Path, folder: Path) -> bool:
    """Return whether the notebook's code or the package's code has changed since the outputs in `folder` were made."""
    stamp = read(folder)
    return (stamp.get("code"), stamp.get("source")) != (code_hash(notebook), source_hash())


def read(folder: Path) -> dict[str, str]:
    """The stamp of the outputs in a folder; empty if there is none."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(notebook: Path, folder: Path) -> None:
    """Stamp the outputs in a folder as made now from the files as they are."""
    stamp = {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "code": code_hash(notebook),
        "source": source_hash(),
    }
    (folder / FILE).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def code_hash(notebook: Path) -> str:
    """Hash of the code cells of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return _digest(json.dumps(sources))


def source_hash(package: Path = PACKAGE) -> str:
    """Hash of the code of a package, without comments and docstrings."""
    paths = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in UNUSED]
    return _digest("\n".join(f"{path.relative_to(package).as_posix()} {_code(path)}" for path in sorted(paths)))


def _code(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
            del node.body[0]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _commit() -> str:
    """The commit checked out, with "-dirty" when the package has uncommitted changes; empty outside git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()

    try:
        dirty = "-dirty" if git("status", "--porcelain", PACKAGE.name) else ""
        return git("rev-parse", "--short", "HEAD") + dirty
    except OSError:
        return ""
