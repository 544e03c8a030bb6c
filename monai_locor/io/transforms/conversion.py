# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Conversion of files, transform objects of any supported library, and lists of both to one spatial transform."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from ...geometry import Grid, SpatialTransform
from .ants_syntax import parse_item
from .chain import ChainItem, chain_transforms
from .files import read_transform
from .library_objects import from_object

__all__ = ["as_transform"]


def as_transform(given: Any, name: str, *, fixed: Grid | None = None, moving: Grid | None = None) -> SpatialTransform | None:
    """Convert files and transform objects to one transform; return None for matrices, fields and other arrays.

    Args:
        given: a :class:`monai_locor.geometry.SpatialTransform`; the result of a registration; a transform of SimpleITK, ITK
            or ANTsPy; a file; ``(one of these, True)`` or ``"[FILE,1]"`` for its inverse; a list of these in the order of
            ``antsApplyTransforms -t`` (points are mapped by the first transform first); the output of ``ants.registration``.
        name: name used in messages.
        fixed: grid of the fixed image, for formats in voxel coordinates.
        moving: grid of the moving image, likewise.

    Raises:
        InputError: if a file cannot be read, an object is not a transform, or the numbers of dimensions differ.
    """
    if isinstance(given, Mapping) and "fwdtransforms" in given:
        given = given["fwdtransforms"]
    several = isinstance(given, (list, tuple)) and _is_list(given)
    given = given if several and not _marked(given) else [given]
    items = [_chain_item(item, name) for item in given]
    if not several and items == [None]:
        return None
    return chain_transforms((_checked(item, value, name) for item, value in zip(items, given)), fixed, moving)


def _is_list(given: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list contains transforms rather than numbers."""
    first = given[0] if given else None
    return isinstance(first, (str, os.PathLike, SpatialTransform)) or _is_object(first) or _is_result(first) or _marked(first)


def _is_object(value: Any) -> bool:
    """Whether a value is a transform of SimpleITK, ITK or ANTsPy."""
    return hasattr(value, "TransformPoint") or hasattr(value, "apply_to_point")


def _is_result(value: Any) -> bool:
    """Whether a value is a result of :func:`monai_locor.register`; duck typing avoids importing torch."""
    return hasattr(value, "transform_points") and hasattr(value, "forward_mm")


def _marked(value: Any) -> bool:
    """Whether a value is a pair of a transform and an inversion flag."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[1], bool)


def _checked(item: ChainItem | None, value: Any, name: str) -> ChainItem:
    if item is None:
        raise InputError(f"{name}: holds a {type(value).__name__} among transforms; give files and transform objects")
    return item


def _chain_item(given: Any, name: str) -> ChainItem | None:
    """Return a chain item for a file, an object, or a pair of these and an inversion flag; None for anything else."""
    given, back = given if _marked(given) else (given, False)
    if isinstance(given, str):
        given, marked = parse_item(given)
        back = back != marked
    if isinstance(given, os.PathLike):
        path = given
        return ChainItem(f"transform {os.fspath(path)}", lambda a, b: read_transform(path, fixed=a, moving=b), back)
    given = given.transform if _is_result(given) else given
    found = given if isinstance(given, SpatialTransform) else from_object(given, name)
    return None if found is None else ChainItem(name, lambda *_: found, back)
