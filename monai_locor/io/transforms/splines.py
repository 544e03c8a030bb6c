# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""B-splines through given values, one axis after the other: a matrix for each."""

from __future__ import annotations

import numpy as np
import torch

from ...geometry import Grid, SpatialTransform, SplineStep, separable
from ...geometry.bspline import CUBIC_NODE_VALUES

__all__ = ["fitted_spline", "quadratic_zoom"]


def fitted_spline(transform: SpatialTransform, fixed: Grid) -> SplineStep:
    """A cubic spline with one node a voxel that takes every voxel of a grid where the transform takes it.

    Beyond the border it is continued in straight lines. The lattice has one node before the first voxel of each axis and two
    after the last.
    """
    before = np.eye(fixed.dims + 1)
    before[:-1, -1] = -1
    lattice = Grid(tuple(n + 3 for n in fixed.shape), fixed.affine @ before)
    matrices = [torch.from_numpy(_cubic_through(n)) for n in fixed.shape]
    return SplineStep(separable(matrices, transform.displacement(fixed).cpu().double()), lattice)


def _cubic_through(size: int) -> np.ndarray:
    """From ``size`` values to ``size + 3`` coefficients of the spline through them, without bending at its ends."""
    if size == 1:
        return np.ones((4, 1))
    system = np.zeros((size + 3, size + 3))
    for row in range(size):
        system[row, row : row + 3] = tuple(CUBIC_NODE_VALUES.values())
    for row, node in zip((size, size + 1, size + 2), (0, size - 1, size)):
        system[row, node : node + 3] = 1, -2, 1
    return np.linalg.inv(system)[:, :size]


def quadratic_zoom(field: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Values ``(C, *old)`` brought to ``(C, *shape)`` by a quadratic spline through them, the corners kept in place.

    The same as ``scipy.ndimage.zoom`` of order 2 with its defaults.
    """
    sizes = zip(field.shape[1:], shape)
    return separable([torch.from_numpy(_quadratic(new, old)) for old, new in sizes], field.double())


def _quadratic(new: int, old: int) -> np.ndarray:
    """From ``old`` values to ``new``, mirrored at the outermost values, ``(new, old)``."""
    positions = np.arange(new) * (old - 1) / max(new - 1, 1)
    return _quadratic_weights(positions, old) @ np.linalg.inv(_quadratic_weights(np.arange(old, dtype=float), old))


def _quadratic_weights(positions: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((len(positions), size))
    if size == 1:
        return out + 1
    middle = np.floor(positions + 0.5).astype(int)
    off = positions - middle
    for shift, weight in ((-1, 0.5 * (0.5 - off) ** 2), (0, 0.75 - off**2), (1, 0.5 * (0.5 + off) ** 2)):
        index = np.abs(middle + shift) % (2 * size - 2)
        np.add.at(out, (np.arange(len(positions)), np.minimum(index, 2 * size - 2 - index)), weight)
    return out
