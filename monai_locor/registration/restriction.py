# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Deformations that move only along some axes of the fixed image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .start.prepare import PreparedImage

__all__ = ["check_axes", "free_axes", "parsed_axes"]

EXAMPLE = "give 1 for each axis of the fixed image to deform along and 0 for each other one, such as 1x1x0"


def parsed_axes(given: Any) -> tuple[int, ...] | None:
    """Return the setting ``restrict_deformation`` as numbers; None if the deformation is not restricted.

    Raises:
        InputError: unless it is 0 or 1 for each of two or three axes, with at least one 1.

    >>> parsed_axes("1x1x0"), parsed_axes([0, 1])
    ((1, 1, 0), (0, 1))
    """
    if given is None:
        return None
    parts = given.lower().split("x") if isinstance(given, str) else given
    known = {"0": 0, "1": 1}
    values = [known.get(str(x).strip(), x) for x in parts] if isinstance(parts, Sequence) else []
    if len(values) not in (2, 3) or any(isinstance(x, (bool, str)) or x not in (0, 1) for x in values):
        raise InputError(f"restrict_deformation {given!r}: {EXAMPLE}; there are no weights in between.")
    if not any(values):
        raise InputError(f"restrict_deformation {given!r}: leaves no axis to deform along; use transform affine instead.")
    return tuple(int(x) for x in values)


def check_axes(restriction: Sequence[int] | None, dims: int) -> None:
    """Check that a restriction has one value per axis of the fixed image.

    Raises:
        InputError: if not.
    """
    if restriction is not None and len(restriction) != dims:
        text = "x".join(map(str, restriction))
        raise InputError(f"restrict_deformation {text}: has {len(restriction)} values, the fixed image {dims} axes; {EXAMPLE}.")


def free_axes(restriction: Sequence[int] | None, fixed: PreparedImage) -> tuple[bool, ...] | None:
    """Return for each axis of the prepared fixed image whether the deformation moves along it; None for all.

    Args:
        restriction: the setting, for the axes of the fixed image as stored.
        fixed: the fixed image.
    """
    if restriction is None or all(restriction):
        return None
    return tuple(bool(restriction[axis]) for axis in fixed.axes)
