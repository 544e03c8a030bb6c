# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""All slices of a volume in one picture, for the viewer of the report."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ...geometry import Grid
from .images import data_uri

__all__ = ["MAX_VOXELS_PER_AXIS", "columns_of", "shown_grid", "stack"]

MAX_VOXELS_PER_AXIS = 256  # larger volumes are downsampled


def shown_grid(grid: Grid) -> Grid:
    """The grid of the viewer: that of the image, with at most :data:`MAX_VOXELS_PER_AXIS` voxels along each axis."""
    shape = tuple(min(n, MAX_VOXELS_PER_AXIS) for n in grid.shape)
    factors = np.array(grid.shape) / np.array(shape)
    affine = grid.affine.copy()
    affine[:-1, :-1] *= factors
    affine[:-1, -1] += grid.affine[:-1, :-1] @ ((factors - 1) / 2)
    return Grid(shape, affine)


def columns_of(shape: tuple[int, ...]) -> int:
    """Number of slices side by side in a stack, so that it is about square."""
    count = shape[2] if len(shape) > 2 else 1
    return max(1, min(count, round(math.sqrt(count * shape[1] / shape[0]))))


def stack(volume: np.ndarray, exact: bool = False) -> str:
    """All slices of a volume in one picture.

    Slice k of the last axis is at row ``k // columns`` and column ``k % columns``; within a slice, the first axis runs from
    left to right and the second one downwards.

    Args:
        volume: ``(*shape)`` upright, in [0, 1], averaged to at most :data:`MAX_VOXELS_PER_AXIS` voxels along each axis; or
            uint8, downsampled to the nearest voxel.
        exact: see :func:`.images.data_uri`.
    """
    small = _nearest(volume) if volume.dtype == np.uint8 else _averaged(volume)
    small = small if small.ndim == 3 else small[..., None]
    width, height, count = small.shape
    columns = columns_of(small.shape)
    tiles = np.zeros((-(-count // columns) * columns, height, width), small.dtype)
    tiles[:count] = small.transpose(2, 1, 0)
    return data_uri(tiles.reshape(-1, columns, height, width).swapaxes(1, 2).reshape(-1, columns * width), exact)


def _averaged(volume: np.ndarray) -> np.ndarray:
    shape = tuple(min(n, MAX_VOXELS_PER_AXIS) for n in volume.shape)
    if shape == volume.shape:
        return volume
    pool = F.adaptive_avg_pool2d if volume.ndim == 2 else F.adaptive_avg_pool3d
    return pool(torch.from_numpy(np.ascontiguousarray(volume))[None].float(), shape)[0].numpy()


def _nearest(volume: np.ndarray) -> np.ndarray:
    shape = [min(n, MAX_VOXELS_PER_AXIS) for n in volume.shape]
    return volume[np.ix_(*(((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip(volume.shape, shape, strict=True)))]
