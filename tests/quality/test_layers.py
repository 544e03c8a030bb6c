# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Imports point one way: quality below registration, registration below the report."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import monai_locor

ROOT = Path(monai_locor.__file__).parent


def imported_packages(package: str) -> Iterator[tuple[str, str]]:
    """File and imported subpackage of monai_locor, for each relative import of a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parents = ("monai_locor", *path.relative_to(ROOT).parent.parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = parents[: len(parents) - node.level + 1]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in names:
                    yield path.name, (*base, *name.split("."))[1]


@pytest.mark.parametrize(
    ("package", "above"), [("quality", {"cli", "handlers", "io", "registration", "report"}), ("metrics", {"quality"})]
)
def test_lower_packages_do_not_import_higher_ones(package, above):
    assert {found for found in imported_packages(package) if found[1] in above} == set()


def test_registration_imports_the_report_at_one_place():
    assert [found for found in imported_packages("registration") if found[1] in ("report", "cli")] == [("result.py", "report")]
