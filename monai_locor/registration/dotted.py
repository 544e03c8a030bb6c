# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Replacement of single settings by dotted names, for instance ``stages.5.iterations``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import InputError

__all__ = ["replaced"]


def replaced(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of settings with some values replaced.

    >>> replaced({"stages": [{"iterations": 80}, {"iterations": 40}]}, {"stages.1.iterations": 5})
    {'stages': [{'iterations': 80}, {'iterations': 5}]}

    Args:
        values: settings as plain values.
        changes: new values by dotted name; list items are counted from 0.

    Raises:
        InputError: if a name does not exist; the message lists the existing ones.
    """
    out: dict[str, Any] = json.loads(json.dumps(values))  # a deep copy
    for name, value in changes.items():
        _put(out, name.split("."), value, name)
    return out


def _put(values: dict[str, Any], parts: list[str], value: Any, name: str) -> None:
    target: Any = values
    for part in parts[:-1]:
        target = _item(target, part, name)
    last = parts[-1]
    if isinstance(target, list):
        _item(target, last, name)
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value  # unknown keys are rejected later, by the settings
    else:
        raise InputError(f"{name}: {'.'.join(parts[:-1])} is one value; give a value for {'.'.join(parts[:-1])}")


def _item(target: Any, part: str, name: str) -> Any:
    if isinstance(target, list):
        if not part.isdecimal() or int(part) >= len(target):
            raise InputError(f"{name}: there is no {part!r} among {len(target)}; count from 0 to {len(target) - 1}")
        return target[int(part)]
    if not isinstance(target, dict) or part not in target:
        known = ", ".join(target) if isinstance(target, dict) else "nothing"
        raise InputError(f"{name}: there is no setting {part!r}; there is {known}")
    return target[part]
