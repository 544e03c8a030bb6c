# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""FSL coordinates: millimeters along the array axes of an image from its first voxel.

The first axis is measured from the last voxel instead if the affine of the image has a positive determinant.
"""

from __future__ import annotations

import numpy as np

from ...geometry import Grid, apply_affine

__all__ = ["from_fsl", "is_swapped", "positions", "to_fsl"]


def is_swapped(grid: Grid) -> bool:
    """Whether FSL reverses the first axis."""
    return bool(np.linalg.det(grid.affine[:-1, :-1]) > 0)


def to_fsl(grid: Grid) -> np.ndarray:
    """Return the matrix from voxels of an image to FSL mm, ``(4, 4)``."""
    matrix = np.diag([*grid.spacing, 1.0])
    if is_swapped(grid):
        matrix[0, 0], matrix[0, 3] = -grid.spacing[0], (grid.shape[0] - 1) * grid.spacing[0]
    return matrix


def from_fsl(grid: Grid) -> np.ndarray:
    """Return the matrix from FSL mm of an image to RAS mm, ``(4, 4)``."""
    return grid.affine @ np.linalg.inv(to_fsl(grid))


def positions(grid: Grid) -> np.ndarray:
    """Return the position of every voxel in FSL mm, ``(*shape, 3)``."""
    axes = [np.arange(n, dtype=np.float64) for n in grid.shape]
    return apply_affine(to_fsl(grid), np.stack(np.meshgrid(*axes, indexing="ij"), -1))
