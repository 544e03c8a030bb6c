# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Means of affine maps, velocities and grids that favor none of their members.

All sums run in the order of the arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid, apply_affine, from_voxels, to_voxels
from ..networks.exponential import LatticeExponential, squarings_for

__all__ = ["exponential_mm", "mean_affine", "mean_grid", "mean_velocity"]

MEAN_TOLERANCE = 1e-10  # of the mean logarithm, in units of the unscaled matrix entries
MAX_ITERATIONS = 50
MAX_SQUARINGS = 8


def mean_affine(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """The bi-invariant mean of affine maps (Pennec & Arsigny 2013, doi 10.1007/978-3-642-30232-9_7).

    It is the map M with zero mean of ``log(M^-1 A_i)``. The mean of inverses is the inverse of the mean, the mean of rigid
    maps is rigid, and that of two maps is the midpoint of the path ``A_1 exp(t log(A_1^-1 A_2))`` between them. It follows
    changes of the coordinates on either side.

    Args:
        matrices: ``(D + 1, D + 1)`` each, at least one.

    Raises:
        InputError: if two maps differ by half a turn, so that there is no unique mean.
    """
    from scipy.linalg import expm, logm

    mean = np.array(matrices[0], dtype=np.float64)
    for _ in range(MAX_ITERATIONS):
        logs = [logm(np.linalg.solve(mean, matrix)) for matrix in matrices]
        if any(np.abs(np.imag(log)).max() > 1e-6 for log in logs):
            raise InputError(
                "two images differ by half a turn, so their poses have no mean; store them in similar orientations"
            )
        step = sum(np.real(log) for log in logs) / len(logs)
        mean = mean @ np.real(expm(step))
        if np.abs(step).max() < MEAN_TOLERANCE * max(1.0, np.abs(mean).max()):
            break
    mean[-1] = np.eye(len(mean))[-1]
    return mean


def mean_velocity(velocities: Iterable[torch.Tensor]) -> torch.Tensor:
    """The mean of stationary velocities, ``(D, *grid)`` float32 each, summed in float64."""
    total, count = None, 0
    for velocity in velocities:
        total = velocity.double() if total is None else total + velocity
        count += 1
    if total is None:
        raise ValueError("the mean of no velocity is not defined")
    return (total / count).float()


@torch.no_grad()
def exponential_mm(velocity_mm: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The displacement ``exp(v)(x) - x`` of a stationary velocity, both ``(D, *grid)``, RAS mm."""
    velocity = to_voxels(velocity_mm, grid).flip(0).float()  # the component along the last axis first
    squarings = squarings_for(float(velocity.abs().max()), MAX_SQUARINGS)
    displacement = LatticeExponential(grid.shape, squarings).to(velocity.device)(velocity[None])[0]
    return from_voxels(displacement.flip(0), grid)


def mean_grid(grids: Sequence[Grid], matrices: Sequence[np.ndarray], voxel_size: float | None = None) -> Grid:
    """A grid along the world axes with isotropic voxels and the mean field of view.

    Args:
        grids: of the images.
        matrices: for each image, the map from points of the grid's world to its points, ``(D + 1, D + 1)``, RAS mm.
        voxel_size: mm; by default the median over the images of the geometric mean of their voxel sides.
    """
    if voxel_size is None:
        voxel_size = float(np.median([np.prod(grid.spacing) ** (1 / grid.dims) for grid in grids]))
    boxes = []
    for grid, matrix in zip(grids, matrices, strict=True):
        corners = apply_affine(np.linalg.inv(matrix), grid.corners())
        boxes.append((corners.min(0), corners.max(0)))
    low, high = np.mean(boxes, 0)
    shape = np.maximum(np.round((high - low) / voxel_size).astype(int) + 1, 2)
    affine = np.diag([voxel_size] * grids[0].dims + [1.0])
    affine[:-1, -1] = (low + high) / 2 - voxel_size * (shape - 1) / 2
    return Grid(tuple(shape.tolist()), affine, grids[0].plane)
