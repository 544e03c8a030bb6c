# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The refined inverse undoes the forward displacement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid, from_voxels
from monai_locor.geometry.inversion import refined_inverse
from monai_locor.metrics import inverse_consistency

from ..phantoms import grid_of
from ..registration.short_runs import inner

FIXED = grid_of((36, 40, 30), (2.0, 1.8, 2.4), (3, -4, 8))
MOVING = grid_of((34, 42, 44), (2.1, 1.9, 1.8), (5, -6, 10), turn=0.3)


def affine_of(angle: float, scale: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[:3, 3] = MOVING.center - matrix[:3, :3] @ FIXED.center
    return matrix


def displaced(grid: Grid, matrix: np.ndarray) -> torch.Tensor:
    """The displacement of an affine map, ``(3, *grid)``."""
    moved = grid.points() @ matrix[:3, :3].T + matrix[:3, 3] - grid.points()
    return torch.from_numpy(np.moveaxis(moved, -1, 0).copy()).float()


def truth(affine: np.ndarray) -> torch.Tensor:
    """``A (x + u(x)) - x`` with a smooth u of some millimeters."""
    u = 0.2 * random_diffeomorphism(FIXED, seed=3).double()
    return displaced(FIXED, affine) + torch.tensordot(torch.from_numpy(affine[:3, :3]), u, dims=1).float()


@pytest.mark.parametrize(("angle", "scale"), [(0.5, 1.0), (-0.3, 0.6)])
def test_inverse_from_the_affine_part_alone(angle, scale):
    """A poor start, and affine parts that the plain fixed-point iteration would not get over."""
    affine = affine_of(angle, scale)
    forward = truth(affine)
    start = displaced(MOVING, np.linalg.inv(affine))
    found = refined_inverse(start, MOVING, forward, FIXED, affine, iterations=20)
    # at the border the start maps outside, where it stays as it is
    before, after = (inverse_consistency(forward, FIXED, v, MOVING, inner(FIXED)).quantile(0.95) for v in (start, found))
    assert float(before) > 1 and float(after) < 0.1, (before, after)


def test_nothing_gets_worse_and_the_rest_stays():
    affine = affine_of(0.2, 1.0)
    forward = truth(affine)
    start = displaced(MOVING, np.linalg.inv(affine))
    found = refined_inverse(start, MOVING, forward, FIXED, affine, iterations=1)
    outside = torch.zeros(MOVING.shape, dtype=torch.bool)
    points = MOVING.points() + np.moveaxis(start.double().numpy(), 0, -1)
    voxels = (points - FIXED.affine[:3, 3]) @ np.linalg.inv(FIXED.affine[:3, :3]).T
    outside |= torch.from_numpy(((voxels < -0.1) | (voxels > np.array(FIXED.shape) - 0.9)).any(-1))
    assert 100 < int(outside.sum()) < outside.numel() - 100
    assert torch.equal(found[:, outside], start[:, outside])


def test_folded_fields_do_no_harm():
    """Where the forward map has no inverse the result stays finite and no further off than it was."""
    forward = from_voxels(4 * torch.randn(3, *FIXED.shape, generator=torch.Generator().manual_seed(0)), FIXED)
    start = torch.zeros(3, *FIXED.shape)
    found = refined_inverse(start, FIXED, forward, FIXED, np.eye(4))
    assert bool(found.isfinite().all())


def test_two_dimensions():
    grid = Grid((40, 44), np.diag([1.5, 2.0, 1.0]))
    forward = 0.2 * random_diffeomorphism(grid, seed=1)
    found = refined_inverse(-forward, grid, forward, grid, np.eye(3))
    before, after = (inverse_consistency(forward, grid, v, grid, inner(grid)).quantile(0.95) for v in (-forward, found))
    assert float(after) < 0.02 < float(before)
