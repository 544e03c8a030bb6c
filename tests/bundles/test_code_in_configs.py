# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the bundle's configurations import and evaluate is approved in a list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BUNDLE = Path(__file__).parents[2] / "bundles" / "locor_registration"
APPROVED = json.loads((BUNDLE / "docs" / "code_in_configs.json").read_text())


def code_in(content: Any) -> Iterator[tuple[str, str]]:
    """Everything in a configuration that MONAI imports (``targets``) or evaluates (``expressions``)."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "_target_" and not str(value).startswith("$"):
                yield "targets", str(value)
            yield from code_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from code_in(value)
    elif isinstance(content, str) and content.lstrip().startswith("$"):
        yield "expressions", content


def test_configurations_run_only_what_is_approved():
    """An entry may be added to the list, or removed from it, by review only."""
    found: dict[str, set[str]] = {"targets": set(), "expressions": set()}
    for file in sorted((BUNDLE / "configs").glob("*.json")):
        for kind, code in code_in(json.loads(file.read_text())):
            found[kind].add(code)
    assert {kind: sorted(code) for kind, code in found.items()} == APPROVED


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            {"a": [{"_target_": "os.system", "command": "$'rm ' + @path"}]},
            [("targets", "os.system"), ("expressions", "$'rm ' + @path")],
        ),
        ({"_target_": "$@unknown"}, [("expressions", "$@unknown")]),
        ({"a": " $1", "b": 2, "c": "@a"}, [("expressions", " $1")]),
    ],
)
def test_code_is_found(content, found):
    assert list(code_in(content)) == found
