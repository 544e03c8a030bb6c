# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The inverse displacement made to undo the forward one as it is written."""

from __future__ import annotations

import numpy as np
import torch

from ..geometry import Grid, inside, mapped_points, sample, slabs
from ..tensors import on_device

__all__ = ["refined_inverse"]

CLOSE = 1e-2  # voxels: what linear interpolation of the result will not keep anyway


@torch.no_grad()
def refined_inverse(
    inverse_mm: torch.Tensor,
    moving: Grid,
    forward_mm: torch.Tensor,
    fixed: Grid,
    affine: np.ndarray,
    iterations: int = 6,
) -> torch.Tensor:
    """Bring ``y + v(y)`` closer to the point that the forward displacement takes to ``y``.

    ``exp(-v)`` inverts ``exp(v)`` up to what squaring and both lattices lose. The rest, ``v(y) + u(y + v(y))``, is taken
    back through the affine part and subtracted, as in Chen 2008 (doi 10.1118/1.2816107), voxel by voxel as long as it
    shrinks; where ``y + v(y)`` lies outside the fixed field of view there is nothing to go by, and nothing changes.

    Args:
        inverse_mm: ``v``, ``(D, *moving)``, RAS mm.
        forward_mm: ``u``, ``(D, *fixed)``, RAS mm.
        affine: ``(D + 1, D + 1)``, affine part of the forward map.
        iterations: at most.

    Returns:
        ``(D, *moving)`` float32.
    """
    dims = moving.dims
    out = inverse_mm.float().clone()
    back = on_device(np.linalg.inv(affine[:dims, :dims]), out)
    close = CLOSE * float(fixed.spacing.min())
    for rows in slabs(moving.shape):
        part = moving.cropped([rows, *(slice(0, n) for n in moving.shape[1:])])
        out[:, rows] = _refined(out[:, rows], part, forward_mm, fixed, back, close, iterations)
    return out


def _refined(
    v: torch.Tensor,
    part: Grid,
    forward_mm: torch.Tensor,
    fixed: Grid,
    back: torch.Tensor,
    close: float,
    iterations: int,
) -> torch.Tensor:
    best, rest, left = v, *_rest(v, part, forward_mm, fixed)
    for _ in range(iterations):
        if not bool((left > close).any()):
            break
        trial = best - torch.tensordot(back, rest, dims=1)
        trial_rest, trial_left = _rest(trial, part, forward_mm, fixed)
        better = trial_left < left
        best, rest, left = (torch.where(better, a, b) for a, b in ((trial, best), (trial_rest, rest), (trial_left, left)))
    return best


def _rest(v: torch.Tensor, part: Grid, forward_mm: torch.Tensor, fixed: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """How far a point is from itself after both maps, ``(D, *part)`` and its length ``(*part)``; zero outside."""
    points = mapped_points(part, fixed, v)
    rest = v + sample(forward_mm[None], points.float()[None], padding_mode="border")[0]
    rest = torch.where(inside(points, fixed.shape), rest, 0)
    return rest, torch.linalg.vector_norm(rest, dim=0)
