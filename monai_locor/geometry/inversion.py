# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Inverses of displacement fields and splines by fixed-point iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch

from ..tensors import on_device, squared_lengths
from .grid import Grid
from .partition import grid_slabs
from .sampling import normalized_points, sample_planar, to_normalized
from .steps import FieldStep, SplineStep, world_points, world_to_voxels
from .warping import mapped_points

__all__ = ["fitted_affine", "inverted_step", "refined_inverse"]

STEP_TOLERANCE_VOXELS = 1e-3
FIELD_TOLERANCE_VOXELS = 1e-2  # linear interpolation of the result is not more accurate
AFFINE_FIT_POINTS = 2**20
MAX_DOMAIN_GROWTH = 30  # ratio of voxels of the default grid of an inverse to those of the step's domain


@torch.no_grad()
def inverted_step(step: FieldStep | SplineStep, grid: Grid | None = None, iterations: int = 60) -> FieldStep:
    """The inverse of a step on a grid.

    The fixed-point iteration starts from the affine map that fits the step best; the step length of a point is halved if its
    residual does not decrease or overshoots. Outside its domain the step is extrapolated by that affine map plus the nearest
    deviation from it, so that the inverse is continuous for points that are mapped from outside.

    Args:
        grid: grid of the inverse; by default a grid that covers the mapped domain of the step.
        iterations: maximum number of iterations.

    Raises:
        ValueError: if the default grid would have more than about 30 times the voxels of the step's domain.
    """
    points = _some_points(step.domain)
    mapped = step.apply(points)
    affine = fitted_affine(points.to(mapped.device), mapped)
    grid = _covering(mapped, step.domain, affine) if grid is None else grid
    matrix, back = (torch.tensor(m, device=mapped.device) for m in (affine, np.linalg.inv(affine)))
    tolerance = STEP_TOLERANCE_VOXELS * float(grid.spacing.min())
    parts = []
    for _, part in grid_slabs(grid, mapped.device):
        target = world_points(part).to(mapped.device)
        start = target @ back[:-1, :-1].T + back[:-1, -1]

        def residual(x: torch.Tensor, rows: torch.Tensor | slice, target: torch.Tensor = target) -> torch.Tensor:
            return (_continued(step, x.T, matrix) - target[rows]).T

        found = _fixed_point(residual, start.T, back[:-1, :-1], tolerance, iterations, damped=True)
        parts.append((found - target.T).reshape(-1, *part.shape).float())
    return FieldStep(torch.cat(parts, 1), grid)


@torch.no_grad()
def refined_inverse(
    inverse_mm: torch.Tensor,
    moving: Grid,
    forward_mm: torch.Tensor,
    fixed: Grid,
    affine: np.ndarray,
    iterations: int = 6,
) -> torch.Tensor:
    """Move ``y + v(y)`` closer to the point that the forward displacement maps to ``y``.

    ``exp(-v)`` inverts ``exp(v)`` only up to the errors of scaling and squaring and of both lattices. The residual
    ``v(y) + u(y + v(y))`` is mapped back through the affine part and subtracted as long as it decreases. Where ``y + v(y)``
    is outside the fixed field of view, the residual is unknown and ``v`` is unchanged.

    Args:
        inverse_mm: ``v``, ``(D, *moving)``, RAS mm.
        forward_mm: ``u``, ``(D, *fixed)``, RAS mm.
        affine: ``(D + 1, D + 1)``, affine part of the forward map.
        iterations: maximum number of iterations.

    Returns:
        refined ``v``, ``(D, *moving)`` float32.
    """
    dims = moving.dims
    out = inverse_mm.float().clone()
    back = on_device(np.linalg.inv(affine[:dims, :dims]), out)
    tolerance = FIELD_TOLERANCE_VOXELS * float(fixed.spacing.min())
    # rows in the reversed axis order of grid_sample
    normalizing = np.diag(to_normalized(fixed.shape)[0])[::-1] @ np.linalg.inv(fixed.affine[:dims, :dims])
    to_sampler = on_device(normalizing, out)
    for rows, part in grid_slabs(moving, out.device):
        # the positions without the displacement, in float64 up to here, do not change from iteration to iteration
        start = normalized_points(mapped_points(part, fixed, device=out.device), fixed.shape).float()

        def residual(v: torch.Tensor, _: torch.Tensor | slice, start: torch.Tensor = start) -> torch.Tensor:
            points = torch.addmm(start, to_sampler, v)
            found = sample_planar(forward_mm[None], points[None], padding_mode="border")[0].add_(v)
            return found.mul_((points.abs() <= 1 + 1e-6).all(0))

        found = _fixed_point(residual, out[:, rows].flatten(1), back, tolerance, iterations, damped=False)
        out[:, rows] = found.view(dims, *part.shape)
    return out


#: residual ``(D, M)`` of points ``(D, M)``, given the points and their indices
Residual: TypeAlias = Callable[[torch.Tensor, "torch.Tensor | slice"], torch.Tensor]


def _fixed_point(
    residual: Residual, start: torch.Tensor, back: torch.Tensor, tolerance: float, iterations: int, damped: bool
) -> torch.Tensor:
    """Solve ``residual(x) = 0`` point by point by ``x <- x - back @ residual(x)`` (Chen 2008, doi 10.1118/1.2816107).

    A point is updated only if its residual decreases.

    Args:
        residual: function of points and their indices among all points.
        start: initial points ``(D, N)``.
        back: ``(D, D)``, inverse of the linear part of the residual.
        tolerance: norm of the residual at which a point has converged.
        iterations: maximum number of iterations.
        damped: halve the step of points that do not improve or overshoot, and skip converged points; otherwise all points
            take full steps until the last one has converged.

    Returns:
        solutions ``(D, N)``.
    """
    best, everywhere = start.clone(), slice(None)
    chosen: torch.Tensor | slice
    rest = residual(best, everywhere)
    left = squared_lengths(rest)
    length = torch.ones_like(left)
    for _ in range(iterations):
        unsolved = left > tolerance**2
        if not bool(unsolved.any()):
            break
        chosen = unsolved.nonzero()[:, 0] if damped else everywhere
        step = back @ rest[:, chosen]
        trial = best[:, chosen] - (length[chosen] * step if damped else step)
        trial_rest = residual(trial, chosen)
        trial_left = squared_lengths(trial_rest)
        better = trial_left < left[chosen]
        if damped:
            overshot = ((trial_rest * rest[:, chosen]).sum(0) < 0) & (trial_left > 0.25 * left[chosen])
            length[chosen] = torch.where(~better | overshot, length[chosen] / 2, length[chosen])
        best[:, chosen] = torch.where(better, trial, best[:, chosen])
        rest[:, chosen] = torch.where(better, trial_rest, rest[:, chosen])
        left[chosen] = torch.where(better, trial_left, left[chosen])
    return best


def _continued(step: FieldStep | SplineStep, points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Apply the step to points ``(N, D)``, extrapolated outside its domain with the linear part of the affine map."""
    domain = step.domain
    last = torch.tensor(domain.shape, dtype=points.dtype, device=points.device)[:, None] - 1
    voxels = world_to_voxels(points, domain).clamp(min=0).minimum(last)
    to_world = torch.from_numpy(domain.affine.copy()).to(points)
    near = voxels.T @ to_world[:-1, :-1].T + to_world[:-1, -1]
    return step.apply(near) + (points - near) @ matrix[:-1, :-1].T


def fitted_affine(points: torch.Tensor, mapped: torch.Tensor) -> np.ndarray:
    """The least-squares affine map from points to mapped points.

    Args:
        points: ``(N, D)`` float64; directions in which they have no extent are not changed by the map.
        mapped: ``(N, D)`` float64.

    Returns:
        ``(D + 1, D + 1)``; a translation if the best map is singular or a reflection.
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
    """World positions of a subset of voxels of a grid, including its corners, ``(N, D)``, mm."""
    step = max(1, round((math.prod(grid.shape) / AFFINE_FIT_POINTS) ** (1 / grid.dims)))
    axes = [np.unique(np.append(np.arange(0, n, step), n - 1.0)) for n in grid.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, grid.dims)
    return torch.from_numpy(index @ grid.affine[:-1, :-1].T + grid.affine[:-1, -1])


def _covering(mapped: torch.Tensor, like: Grid, affine: np.ndarray) -> Grid:
    """A grid that covers points ``(N, D)``, with the spacing of ``like`` and its axes rotated by the affine map."""
    left, _, right = np.linalg.svd(affine[:-1, :-1])
    axes = left @ right @ like.affine[:-1, :-1]
    index = mapped.cpu().numpy() @ np.linalg.inv(axes).T
    low, high = np.floor(index.min(0) + 1e-6), np.ceil(index.max(0) - 1e-6)
    shape = (high - low + 1).clip(1)
    if math.prod(shape) > MAX_DOMAIN_GROWTH * math.prod(n + 4 for n in like.shape):
        raise ValueError(f"the inverse would need {shape.tolist()} voxels; give a grid for it")
    matrix = np.eye(len(affine))
    matrix[:-1, :-1], matrix[:-1, -1] = axes, axes @ low
    return Grid(tuple(int(n) for n in shape), matrix)
