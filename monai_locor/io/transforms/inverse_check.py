# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Check that a transform stored next to another is its inverse."""

from __future__ import annotations

import numpy as np

from ...geometry import SpatialTransform

__all__ = ["is_inverse"]

MAX_MEDIAN_ERROR_VOXELS = 1.0  # far above the error of a numerical inverse on another grid


def is_inverse(inverse: SpatialTransform, transform: SpatialTransform) -> bool:
    """Whether the round trip returns most points of the transform's domain to within one voxel."""
    grid = transform.domain
    assert grid is not None
    axes = [np.linspace(0.2, 0.8, 7) * (n - 1) for n in grid.shape]  # away from the border, where inverses are truncated
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, grid.dims)
    points = index @ grid.affine[:-1, :-1].T + grid.affine[:-1, -1]
    away = np.linalg.norm(inverse.points(transform.points(points)) - points, axis=1)
    return bool(np.median(away) < MAX_MEDIAN_ERROR_VOXELS * grid.spacing.max())
