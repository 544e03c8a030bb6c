# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whether a transform found beside another is its inverse, or a leftover."""

from __future__ import annotations

import numpy as np

from ...geometry import SpatialTransform

__all__ = ["is_inverse"]

TOLERANCE = 1.0  # voxels, of the median: an inverse that was computed, on another grid, is far better


def is_inverse(inverse: SpatialTransform, transform: SpatialTransform) -> bool:
    """Whether most points of the transform's domain come back through the other transform to within a voxel."""
    grid = transform.domain
    assert grid is not None
    axes = [np.linspace(0.2, 0.8, 7) * (n - 1) for n in grid.shape]  # away from borders, where inverses are cut off
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, grid.dims)
    points = index @ grid.affine[:-1, :-1].T + grid.affine[:-1, -1]
    away = np.linalg.norm(inverse.points(transform.points(points)) - points, axis=1)
    return bool(np.median(away) < TOLERANCE * grid.spacing.max())
