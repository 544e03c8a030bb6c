# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Inverses of displacement fields and splines, found point by point."""

from __future__ import annotations

import math

import numpy as np
import torch

from .axiswise import slabs
from .grid import Grid
from .steps import FieldStep, SplineStep, world_points, world_to_voxels

__all__ = ["fitted_affine", "inverted_step"]

CLOSE = 1e-3  # voxels
SAMPLES = 2**20  # points that an affine map and an outline are found from
LARGEST = 30  # times the domain of the step, for the domain of its inverse


@torch.no_grad()
def inverted_step(step: FieldStep | SplineStep, grid: Grid | None = None, iterations: int = 60) -> FieldStep:
    """The inverse of a step on a grid.

    A fixed-point iteration (Chen 2008, doi 10.1118/1.2816107) after the affine map that fits the step best is taken out,
    with half the step length wherever the full one does not help or goes too far. Beyond its domain the step is continued
    by that affine map and its nearest deviation from it, so that the inverse has no jump where points come from outside.

    Args:
        grid: where the inverse is wanted; if not given, the domain of the step, moved to where the step takes it.
        iterations: at most.

    Raises:
        ValueError: when the step scatters its domain so far that this grid would be 30 times as large.
    """
    points = _some_points(step.domain)
    mapped = step.apply(points)
    affine = fitted_affine(points.to(mapped.device), mapped)
    grid = _covering(mapped, step.domain, affine) if grid is None else grid
    parts = []
    for rows in slabs(grid.shape):
        part = grid.cropped([rows, *(slice(0, n) for n in grid.shape[1:])])
        target = world_points(part).to(mapped.device)
        found = _solved(step, target, affine, CLOSE * float(grid.spacing.min()), iterations)
        parts.append((found - target).T.reshape(-1, *part.shape).float())
    return FieldStep(torch.cat(parts, 1), grid)


def _solved(
    step: FieldStep | SplineStep, target: torch.Tensor, affine: np.ndarray, close: float, iterations: int
) -> torch.Tensor:
    """Points ``x`` that the step takes to ``target``, ``(N, D)``."""
    matrix, back = (torch.tensor(m, device=target.device) for m in (affine, np.linalg.inv(affine)))
    best = target @ back[:-1, :-1].T + back[:-1, -1]
    rest = _continued(step, best, matrix) - target
    left = torch.linalg.vector_norm(rest, dim=1)
    length = torch.ones_like(left)
    for _ in range(iterations):
        open_ = (left > close).nonzero()[:, 0]
        if not len(open_):
            break
        trial = best[open_] - length[open_, None] * (rest[open_] @ back[:-1, :-1].T)
        trial_rest = _continued(step, trial, matrix) - target[open_]
        trial_left = torch.linalg.vector_norm(trial_rest, dim=1)
        better = trial_left < left[open_]
        overshot = ((trial_rest * rest[open_]).sum(1) < 0) & (trial_left > 0.5 * left[open_])
        length[open_[~better | overshot]] /= 2
        kept = open_[better]
        best[kept], rest[kept], left[kept] = trial[better], trial_rest[better], trial_left[better]
    return best


def _continued(step: FieldStep | SplineStep, points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """The step at any points ``(N, D)``, beyond its domain parallel to the affine map."""
    domain = step.domain
    last = torch.tensor(domain.shape, dtype=points.dtype, device=points.device)[:, None] - 1
    voxels = world_to_voxels(points, domain).clamp(min=0).minimum(last)
    to_world = torch.from_numpy(domain.affine.copy()).to(points)
    near = voxels.T @ to_world[:-1, :-1].T + to_world[:-1, -1]
    return step.apply(near) + (points - near) @ matrix[:-1, :-1].T


def fitted_affine(points: torch.Tensor, mapped: torch.Tensor) -> np.ndarray:
    """The affine map that takes points to mapped points with the least squared error.

    Args:
        points: ``(N, D)`` float64; directions without any extent are left as they are.
        mapped: ``(N, D)`` float64.

    Returns:
        ``(D + 1, D + 1)``; a translation only, where the best map would be singular or a reflection.
    """
    matrix = np.eye(points.shape[1] + 1)
    middle = points.mean(0)
    centered, moved = points - middle, mapped - points
    inverse = torch.linalg.pinv(centered.T @ centered, rtol=1e-9, hermitian=True)
    matrix[:-1, :-1] += (inverse @ (centered.T @ (moved - moved.mean(0)))).T.cpu().numpy()
    if np.linalg.det(matrix) < 1e-3:
        matrix = np.eye(len(matrix))
    matrix[:-1, -1] = (middle + moved.mean(0)).cpu().numpy() - matrix[:-1, :-1] @ middle.cpu().numpy()
    return matrix


def _some_points(grid: Grid) -> torch.Tensor:
    """World positions of voxels of a grid, its corners among them, ``(N, D)``, mm."""
    step = max(1, round((math.prod(grid.shape) / SAMPLES) ** (1 / grid.dims)))
    axes = [np.unique(np.append(np.arange(0, n, step), n - 1.0)) for n in grid.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, grid.dims)
    return torch.from_numpy(index @ grid.affine[:-1, :-1].T + grid.affine[:-1, -1])


def _covering(mapped: torch.Tensor, like: Grid, affine: np.ndarray) -> Grid:
    """A grid that covers points ``(N, D)``, its axes turned as the affine map turns those of ``like``, with its spacing."""
    left, _, right = np.linalg.svd(affine[:-1, :-1])
    axes = left @ right @ like.affine[:-1, :-1]
    index = mapped.cpu().numpy() @ np.linalg.inv(axes).T
    low, high = np.floor(index.min(0) + 1e-6), np.ceil(index.max(0) - 1e-6)
    shape = (high - low + 1).clip(1)
    if math.prod(shape) > LARGEST * math.prod(n + 4 for n in like.shape):
        raise ValueError(f"the inverse would need {shape.tolist()} voxels; give a grid for it")
    matrix = np.eye(len(affine))
    matrix[:-1, :-1], matrix[:-1, -1] = axes, axes @ low
    return Grid(tuple(int(n) for n in shape), matrix)
