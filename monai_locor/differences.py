# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Differences between two collections of plain values, for messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differences", "first_difference"]

MAX_CHARACTERS = 60  # of a value


def first_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first value that differs, by the sorted names; empty if none does.

    >>> first_difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    'c 2 then, 3 now'
    """
    return next(differences(then, now), "")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """All values that differ, by the sorted names.

    >>> list(differences({"a": 1, "b": {"c": 2}}, {"a": 2, "b": {"c": 3}}))
    ['a 1 then, 2 now', 'c 2 then, 3 now']
    """
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if before != after and isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after)
        elif before != after:
            yield f"{name} {_short(before)} then, {_short(after)} now"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."
