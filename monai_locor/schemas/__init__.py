# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The JSON Schema of ``run.json``: names, units and descriptions of all its numbers."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

__all__ = ["RUN_SCHEMA", "declared_numbers", "numbers_of", "run_schema"]

RUN_SCHEMA = "run-1.json"
NUMBER_TYPES = {"number", "integer"}
INDEX_UNIT = "index"


@functools.cache
def _text() -> str:
    return files(__name__).joinpath(RUN_SCHEMA).read_text(encoding="utf-8")


def run_schema() -> dict[str, Any]:
    """The schema of ``run.json``, JSON Schema 2020-12, with the additional keyword ``unit``."""
    found: dict[str, Any] = json.loads(_text())
    return found


def declared_numbers() -> dict[str, tuple[str, str]]:
    """Unit and description of every single number by its name with dots, such as ``verdict.measures.overlap``.

    Numbers in lists are left out, such as losses and matrices, and indices, which are no quantities.
    """
    schema = run_schema()
    return {name: (node["unit"], node["description"]) for name, node in _numbers(schema, schema)}


def numbers_of(content: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The numbers of :func:`declared_numbers` in a ``run.json``; None where there is no value.

    Args:
        content: parsed content of the file.
    """
    return {name: _value(content, name) for name in declared_numbers()}


def _numbers(schema: Mapping[str, Any], node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and nodes of the numbers of an object."""
    for key, child in node.get("properties", {}).items():
        target = schema["$defs"][child["$ref"].rpartition("/")[2]] if "$ref" in child else child
        types = target.get("type", ())
        if NUMBER_TYPES & {*([types] if isinstance(types, str) else types)}:
            if target["unit"] != INDEX_UNIT:
                yield prefix + key, target
        else:
            yield from _numbers(schema, target, f"{prefix}{key}.")


def _value(content: Any, name: str) -> float | int | None:
    for key in name.split("."):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, (int, float)) else None
