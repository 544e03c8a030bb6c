# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The tests that docs/guide/reliability.md names exist, for every scenario in its tables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/guide/reliability.md"
ROW = re.compile(r"^\| (\S[^|]*?) \| ([^|]+?) \| (.+) \|$", re.MULTILINE)  # scenario, promise, tests
NODE = re.compile(r"`([\w/]+\.py)::([\w:]+)`")
SCENARIOS = 15
SECURITY_FACTS = 6


def rows() -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Number or name, promise, and tests of the rows of all tables."""
    found = [(name, promise, NODE.findall(tests)) for name, promise, tests in ROW.findall(PAGE.read_text(encoding="utf-8"))]
    return [row for row in found if row[0] != "Scenario" and not set(row[0]) <= set("-: ")]


def nodes_of(path: Path) -> set[str]:
    """``test`` and ``Class::test`` of a test file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return names | {f"{c.name}::{node.name}" for c in classes for node in c.body if isinstance(node, ast.FunctionDef)}


def test_every_scenario_has_a_promise_and_tests():
    names = [name for name, _, _ in rows()]
    assert [name.partition(".")[0] for name in names[:SCENARIOS]] == [str(n) for n in range(1, SCENARIOS + 1)]
    assert sum(name.startswith("S") for name in names) == SECURITY_FACTS
    assert all(promise and tests for _, promise, tests in rows())


def test_named_tests_exist():
    named = {node for _, _, tests in rows() for node in tests}
    known = {file: nodes_of(ROOT / "tests" / file) for file, _ in named if (ROOT / "tests" / file).is_file()}
    missing = sorted(f"{file}::{node}" for file, node in named if node not in known.get(file, ()))
    assert len(named) > 60 and not missing, missing
