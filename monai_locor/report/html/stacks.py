# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whole volumes as pictures that a page can hold: all slices side by side, for the viewer of a report."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ...geometry import Grid
from .images import data_uri

__all__ = ["MOST", "columns_of", "shown_grid", "stack"]

MOST = 256  # voxels along an axis that are shown


def shown_grid(grid: Grid) -> Grid:
    """The grid that the viewer shows: that of the image, or with no more than :data:`MOST` voxels along an axis."""
    shape = tuple(min(n, MOST) for n in grid.shape)
    factors = np.array(grid.shape) / np.array(shape)
    affine = grid.affine.copy()
    affine[:-1, :-1] *= factors
    affine[:-1, -1] += grid.affine[:-1, :-1] @ ((factors - 1) / 2)
    return Grid(shape, affine)


def columns_of(shape: tuple[int, ...]) -> int:
    """How many slices lie side by side in a stack, so that it is about square."""
    count = shape[2] if len(shape) > 2 else 1
    return max(1, min(count, round(math.sqrt(count * shape[1] / shape[0]))))


def stack(volume: np.ndarray, exact: bool = False) -> str:
    """All slices of a volume in one picture: slice k of the last axis at row ``k // columns`` and column ``k % columns``,
    in each the first axis from left to right and the second one downwards.

    Args:
        volume: ``(*shape)`` upright, in [0, 1], averaged where it has more than :data:`MOST` voxels along an axis; or uint8,
            of which the nearest voxel is taken there.
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
    shape = tuple(min(n, MOST) for n in volume.shape)
    if shape == volume.shape:
        return volume
    pool = F.adaptive_avg_pool2d if volume.ndim == 2 else F.adaptive_avg_pool3d
    return pool(torch.from_numpy(np.ascontiguousarray(volume))[None].float(), shape)[0].numpy()


def _nearest(volume: np.ndarray) -> np.ndarray:
    shape = [min(n, MOST) for n in volume.shape]
    return volume[np.ix_(*(((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip(volume.shape, shape, strict=True)))]
