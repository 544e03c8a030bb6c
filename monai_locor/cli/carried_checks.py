# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks, before long work, of what is carried along and of the files that it is written to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .carried import POINTS, Carried, holds_tensors, is_points
from .output_files import suffix_of

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["check_carried", "check_target"]


def check_carried(carried: Carried, grid: Grid) -> None:
    """Check that :meth:`.carried.Carried.through` will not refuse its content after the registration.

    Args:
        carried: an image, a label map or points of one image of the pair.
        grid: that of the other image.

    Raises:
        InputError: if the dimensions or the planes differ, the content would have to be rotated, or points have a suffix that
            their output cannot have.
    """
    from ..geometry import check_planes

    carried.check_dims(grid.dims)
    name = f"{carried.kind} {carried.path}"
    if carried.grid is None:
        if not is_points(carried.path):  # any other suffix is read as .csv
            raise InputError(f"{name}: the name must end in {', '.join(POINTS)}, as that of its output; rename it")
        return
    check_planes(carried.grid, grid, (name, "the output grid"))
    if carried.kind == "image" and not carried.is_flat_picture:
        holds_tensors(carried.content, name)


def check_target(path: Path, kind: str, pictures: bool = False) -> None:
    """Check that the suffix of an output is one of its kind.

    Args:
        pictures: whether an image may be written as a picture.

    Raises:
        InputError: it names the allowed suffixes.
    """
    from ..io.paths import IMAGE_SUFFIXES, LOSSY_SUFFIXES, PICTURE_SUFFIXES

    lossless = [suffix for suffix in PICTURE_SUFFIXES if suffix not in LOSSY_SUFFIXES or kind == "image"]
    known = POINTS if kind == "points" else (*IMAGE_SUFFIXES, *lossless) if pictures else IMAGE_SUFFIXES
    if suffix_of(path) not in known:
        raise InputError(f"output file {path}: its name must end in {', '.join(known)} for {kind}")
