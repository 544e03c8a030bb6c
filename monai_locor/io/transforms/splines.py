# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Separable interpolation by B-splines, with one matrix per axis."""

from __future__ import annotations

import numpy as np
import torch

from ...geometry import Grid, SpatialTransform, SplineStep, separable
from ...geometry.bspline import CUBIC_NODE_VALUES

__all__ = ["fitted_spline", "quadratic_zoom"]


def fitted_spline(transform: SpatialTransform, fixed: Grid) -> SplineStep:
    """Return the cubic spline with one node per voxel that interpolates a transform at the voxels of a grid.

    It is linear beyond the border. The lattice has one node before the first voxel of each axis and two after the last.
    """
    before = np.eye(fixed.dims + 1)
    before[:-1, -1] = -1
    lattice = Grid(tuple(n + 3 for n in fixed.shape), fixed.affine @ before)
    matrices = [torch.from_numpy(_cubic_through(n)) for n in fixed.shape]
    return SplineStep(separable(matrices, transform.displacement(fixed).cpu().double()), lattice)


def _cubic_through(size: int) -> np.ndarray:
    """Return the matrix from ``size`` values to the ``size + 3`` coefficients of the natural cubic spline through them."""
    if size == 1:
        return np.ones((4, 1))
    system = np.zeros((size + 3, size + 3))
    for row in range(size):
        system[row, row : row + 3] = tuple(CUBIC_NODE_VALUES.values())
    for row, node in zip((size, size + 1, size + 2), (0, size - 1, size)):
        system[row, node : node + 3] = 1, -2, 1
    return np.linalg.inv(system)[:, :size]


def quadratic_zoom(field: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Resample values ``(C, *old)`` to ``(C, *shape)`` by quadratic spline interpolation with aligned corners.

    Equal to ``scipy.ndimage.zoom`` with order 2 and default settings.
    """
    sizes = zip(field.shape[1:], shape)
    return separable([torch.from_numpy(_quadratic(new, old)) for old, new in sizes], field.double())


def _quadratic(new: int, old: int) -> np.ndarray:
    """Return the matrix ``(new, old)`` from ``old`` to ``new`` values, with mirror boundary conditions."""
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
