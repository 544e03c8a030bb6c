# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The stationary velocity of a whole image: that of the coarse registration plus the additions of the tiles.

A convex combination of velocities of neighboring tiles with smooth weights is a smooth velocity. Its exponential is therefore
invertible, and the exponential of the negative velocity is its inverse, across the borders of tiles as elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, apply_affine, cubic_bspline, separable, voxel_to_voxel
from ..networks.exponential import LatticeExponential
from .tiling import Box

__all__ = ["CoarseVelocity", "box_around", "exponential_mm", "lattice_of", "smooth_matrix"]

MARGIN_STEPS = 2  # of a lattice beyond the outermost voxel centers, as in the engine
MIN_NODES = 3  # along each axis


def lattice_of(grid: Grid, step: float) -> Grid:
    """The integration lattice of a grid, as in :class:`monai_locor.networks.velocity.SplineVelocity`.

    Args:
        grid: fixed grid, in canonical axis order.
        step: distance of lattice points, mm.
    """
    length = (np.array(grid.shape) - 1) * grid.spacing + 2 * MARGIN_STEPS * step
    shape = tuple(max(MIN_NODES, math.ceil(n / step - 1e-6) + 1) for n in length)
    to_fixed = np.diag([*(step / grid.spacing), 1.0])
    to_fixed[:-1, -1] = -MARGIN_STEPS * step / grid.spacing
    return Grid(shape, grid.affine @ to_fixed, grid.plane)


def smooth_matrix(positions: np.ndarray, size: int) -> np.ndarray:
    """Matrix ``(len(positions), size)`` of interpolation by cubic B-splines along an axis at ``positions`` (clamped).

    Values of a spline whose nodes are every second one are reproduced exactly away from the ends, where the values are
    mirrored.
    """

    def spline_values(where: np.ndarray) -> np.ndarray:
        out = np.zeros((len(where), size))
        first = np.floor(where).astype(int) - 1
        for tap in range(4):
            index = np.abs(first + tap)
            index = np.where(index > size - 1, 2 * (size - 1) - index, index) % max(size, 1)
            np.add.at(out, (np.arange(len(where)), index), cubic_bspline(where - first - tap))
        return out

    nodes = np.arange(size, dtype=np.float64)
    return np.linalg.solve(spline_values(nodes).T, spline_values(np.clip(positions, 0, size - 1)).T).T


@dataclass(frozen=True, eq=False)
class CoarseVelocity:
    """The velocity of the coarse registration.

    Attributes:
        values: ``(D, *lattice)`` float32, RAS mm.
        lattice: grid of the values, with the axes of the canonical fixed grid.
    """

    values: torch.Tensor
    lattice: Grid

    def on(self, grid: Grid) -> torch.Tensor:
        """Interpolate smoothly on another grid with the same axes, ``(D, *grid)``, RAS mm; constant beyond the lattice."""
        to_lattice = voxel_to_voxel(grid, self.lattice)
        matrices = []
        for axis, n in enumerate(grid.shape):
            positions = to_lattice[axis, -1] + to_lattice[axis, axis] * np.arange(n)
            matrices.append(torch.from_numpy(smooth_matrix(positions, self.lattice.shape[axis])).float())
        return separable(matrices, self.values)


def box_around(grid: Grid, points: np.ndarray, margin: int) -> Box:
    """The voxels of a grid around world points ``(N, D)``, with a margin, at least two along each axis.

    Args:
        margin: voxels.
    """
    voxels = apply_affine(np.linalg.inv(grid.affine), points)
    low, high = np.floor(voxels.min(0)).astype(int) - margin, np.ceil(voxels.max(0)).astype(int) + margin + 1
    out = []
    for a, b, n in zip(low, high, grid.shape, strict=True):
        start = min(max(int(a), 0), max(n - MIN_NODES, 0))
        out.append(slice(start, max(min(int(b), n), min(start + MIN_NODES, n))))
    return tuple(out)


def exponential_mm(velocity_mm: torch.Tensor, lattice: Grid, squarings: int, signs: Sequence[float] = (1.0,)) -> torch.Tensor:
    """Displacements of ``exp(sign * v)`` on a lattice.

    Args:
        velocity_mm: ``v``, ``(D, *lattice)``, RAS mm.
        lattice: grid of the velocity.
        squarings: number of squarings, see :class:`monai_locor.networks.exponential.LatticeExponential`.
        signs: 1 for the map, -1 for its inverse.

    Returns:
        ``(len(signs), D, *lattice)``, RAS mm.
    """
    axes = torch.from_numpy(lattice.affine[:-1, :-1].copy())
    voxels = torch.tensordot(torch.linalg.inv(axes), velocity_mm.double(), dims=1).flip(0).float()  # last axis first
    exponential = LatticeExponential(lattice.shape, squarings)
    found = torch.stack([exponential(sign * voxels[None])[0] for sign in signs])
    return torch.einsum("ij,kj...->ki...", axes, found.flip(1).double()).float()
