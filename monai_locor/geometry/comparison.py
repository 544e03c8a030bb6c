# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Comparison of two grids: same voxels, and parallel planes of slices."""

from __future__ import annotations

import logging

import numpy as np

from ..errors import InputError
from .grid import Grid
from .planes import plane_normal

__all__ = ["SAME_GRID_VOXELS", "check_planes", "plane_angle", "same_grid"]

logger = logging.getLogger(__name__)

SAME_GRID_VOXELS = 1e-2  # distance of corners; headers in single precision or with few decimals differ by less
PLANE_WARNING_DEGREES, PLANE_LIMIT_DEGREES = 0.5, 5.0


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids have the same shape, and corners that agree to a hundredth of the smallest voxel size."""
    return a.shape == b.shape and bool(np.abs(a.corners() - b.corners()).max() < SAME_GRID_VOXELS * a.spacing.min())


def plane_angle(first: Grid, second: Grid) -> float:
    """Angle between the planes of two slices, degrees; 0 for 3-D grids and slices with a default affine."""
    if first.dims != 2 or second.dims != 2 or first.placeless or second.placeless:
        return 0.0
    one, two = (plane_normal(grid.plane) for grid in (first, second))
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(one, two)), abs(one @ two))))


def check_planes(first: Grid, second: Grid, names: tuple[str, str]) -> None:
    """Check that two slices are in the same or parallel planes; 3-D grids always pass.

    A warning is logged above half a degree.

    Args:
        names: names of both images, for messages.

    Raises:
        InputError: if the angle between the planes is more than 5 degrees.
    """
    angle = plane_angle(first, second)
    apart = f"{names[0]} and {names[1]} are slices in planes {angle:.3g} degrees apart"
    if angle > PLANE_LIMIT_DEGREES:
        raise InputError(f"{apart}; give slices of one plane, or parallel ones")
    if angle > PLANE_WARNING_DEGREES:
        logger.warning("%s; each is taken in its own plane", apart)
