# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The check, before a registration, that it can transform what it is to carry along."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from .carried import POINTS, Carried, holds_tensors, is_points

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["check_carried"]


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
