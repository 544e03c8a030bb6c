# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The first difference between two collections of plain values, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["first_difference"]

MAX_CHARACTERS = 60  # of a value


def first_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first value that differs, by the sorted names; empty if none does.

    >>> first_difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    'c 2 then, 3 now'
    """
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if before != after and isinstance(before, Mapping) and isinstance(after, Mapping):
            return first_difference(before, after)
        if before != after:
            return f"{name} {_short(before)} then, {_short(after)} now"
    return ""


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."
