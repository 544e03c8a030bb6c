# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Mutation score of modules: the share of small changes of the code that the fast tests notice.

    python -m pip install cosmic-ray
    python benchmarks/mutation.py geometry losses --sample 100 --json mutation.json

The changes are those of Cosmic Ray: operators, comparisons, numbers, conditions, loops. Changes of annotations and docstrings
are left out. A sample is drawn at random. The test files that use a name of the module run first, then the others of its
package. torch and MONAI are imported once, and each mutant runs in a fork of this process, on a copy of the package. A mutant
that does not end is noticed. The GPU kernels are left out where Triton is not installed. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "geometry": (
        "tests/geometry",
        "tests/metrics",
        "tests/registration/test_coordinates.py",
        "tests/registration/test_resampling.py",
    ),
    "losses": ("tests/losses",),
}
LEFT_OUT = ("__init__.py", "device.py", "launch.py")  # the last two are compiled by Triton
# No changes, or such that raise an error for numbers that are not whole.
LEFT_OUT_OPERATORS = (
    *("decorator", "no-op", "variable", "shift", "bit", "invert", "mod", "floordiv", "pow"),
    *("delete", "uadd"),
)
CPU_SECONDS = 600  # for the tests of a mutant


@dataclass
class Mutant:
    """A change of a module: file, operator and number of the place; then what became of it."""

    path: str
    operator: str
    occurrence: int
    end: str = ""
    difference: str = ""


def bare(code: str) -> str:
    """The code without annotations and docstrings, for comparison."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.dump(tree)


def mutants(package: str) -> Iterator[Mutant]:
    """All mutants of a subpackage."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    triton = importlib.util.find_spec("triton") is not None  # without it, the tests of the kernels are skipped
    for path in sorted((ROOT / "monai_locor" / package).rglob("*.py")):
        if path.name in LEFT_OUT or (path.parent.name == "kernels" and not triton):
            continue
        tree = get_ast(path.read_text(encoding="utf-8"))
        for name in operator_names():
            kind = get_operator(name)
            if kind.arguments() or any(word in name.lower() for word in LEFT_OUT_OPERATORS):
                continue
            count = sum(1 for node in ast_nodes(tree) for _ in kind().mutation_positions(node))
            for occurrence in range(count):
                yield Mutant(path.relative_to(ROOT).as_posix(), name, occurrence)


def mutated(mutant: Mutant) -> str | None:
    """The changed code; None if nothing but annotations and docstrings has changed."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code = (ROOT / mutant.path).read_text(encoding="utf-8")
    changed = mutate_code(code, get_operator(mutant.operator)(), mutant.occurrence)
    with contextlib.suppress(SyntaxError):
        return None if changed is None or bare(changed) == bare(code) else changed
    return None


def tests_of(path: str, package: str) -> tuple[list[str], list[str]]:
    """Test files of a package that use a public name of the module, those that are named after it first; and the others."""
    stem, tree = Path(path).stem, ast.parse((ROOT / path).read_text(encoding="utf-8"))
    public = [node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name[0] != "_"]
    used = re.compile(r"\b(" + "|".join([stem, *public]) + r")\b")
    files = sorted(
        f for place in TESTS[package] for f in ([ROOT / place] if place.endswith(".py") else (ROOT / place).glob("test_*.py"))
    )
    users = [f for f in files if used.search(f.read_text(encoding="utf-8"))]
    users.sort(key=lambda f: stem not in f.name)
    first, rest = ([str(f.relative_to(ROOT)) for f in group] for group in (users, [f for f in files if f not in users]))
    return first, rest


def run(copy: Path, files: list[str]) -> str:
    """Run tests in a fork: "killed", "survived" or "time"."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return "time"
        return "survived" if os.WEXITSTATUS(status) == 0 else "killed"
    code = 3
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            import pytest

            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]))
    finally:
        os._exit(code)


def score(found: list[Mutant]) -> dict[str, float | int]:
    """Numbers of mutants and the share that was noticed."""
    noticed = sum(mutant.end != "survived" for mutant in found)
    return {"mutants": len(found), "noticed": noticed, "score": round(noticed / max(len(found), 1), 3)}


def main() -> int:
    """Draw a sample, test it, and print the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", choices=sorted(TESTS))
    parser.add_argument("--sample", type=int, default=100, help="number of mutants of each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all mutants and the score")
    args = parser.parse_args()
    sys.dont_write_bytecode = True
    import monai.losses  # noqa: F401 (before the forks)
    import nibabel  # noqa: F401
    import torch

    torch.set_num_threads(1)
    done: dict[str, list[Mutant]] = {package: [] for package in args.packages}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "monai_locor", copy / "monai_locor", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tests", "pyproject.toml"):
            (copy / name).symlink_to(ROOT / name)
        for package in args.packages:
            drawn = list(mutants(package))
            control = [file for group in tests_of(drawn[0].path, package) for file in group]
            if run(copy, control) != "survived":
                sys.exit(f"{', '.join(control)}: fail without a change; repair them first")
            random.Random(args.seed).shuffle(drawn)  # noqa: S311 (a sample)
            for mutant in drawn:
                if len(done[package]) == args.sample:
                    break
                if (code := mutated(mutant)) is not None:
                    done[package].append(_tested(mutant, code, copy, package))
                    print(package, score(done[package]), mutant.end, mutant.path, mutant.operator, flush=True)
                    if mutant.end == "survived":
                        print(mutant.difference, flush=True)
                    _write(args.json, done)
    return 0


def _tested(mutant: Mutant, code: str, copy: Path, package: str) -> Mutant:
    original, place = (ROOT / mutant.path).read_text(encoding="utf-8"), copy / mutant.path
    lines = difflib.unified_diff(original.splitlines(), code.splitlines(), "", "", lineterm="", n=1)
    mutant.difference = "\n".join(list(lines)[2:])
    place.write_text(code, encoding="utf-8")
    try:
        for files in tests_of(mutant.path, package):
            mutant.end = run(copy, files) if files else "survived"
            if mutant.end != "survived":
                break
    finally:
        place.write_text(original, encoding="utf-8")
    return mutant


def _write(path: Path | None, done: dict[str, list[Mutant]]) -> None:
    if path is not None:
        content = {name: {**score(found), "all": [asdict(m) for m in found]} for name, found in done.items()}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
