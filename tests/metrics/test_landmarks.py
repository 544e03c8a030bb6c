# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Distances in millimeters: exact inverses, known shifts, and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, apply_affine
from monai_locor.metrics import inverse_consistency, target_registration_error

FIXED = Grid((12, 10, 9), np.array([[-2.0, 0.1, 0, 10], [0.2, 0, 1.5, -5], [0, -2.5, 0.1, 12], [0, 0, 0, 1]]))
MOVING = Grid((20, 18, 16), np.diag([1.5, 1.5, 2.0, 1.0]))
TO_CENTER = np.block([[np.eye(3), (FIXED.center - MOVING.center)[:, None]], [np.zeros(3), 1.0]])
CENTERED = Grid(MOVING.shape, TO_CENTER @ MOVING.affine)


def field(grid: Grid, matrix: np.ndarray) -> torch.Tensor:
    points = grid.points()
    return torch.from_numpy(np.moveaxis(apply_affine(matrix, points) - points, -1, 0).copy())


def small_affine() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3] += 0.05 * np.random.default_rng(0).standard_normal((3, 4))
    return matrix


def test_an_affine_and_its_inverse_are_consistent():
    matrix = small_affine()
    error = inverse_consistency(field(FIXED, matrix), FIXED, field(CENTERED, np.linalg.inv(matrix)), CENTERED)
    assert error.numel() > 300 and float(error.max()) < 1e-4


def test_a_wrong_inverse_is_told_in_millimeters():
    matrix, off = small_affine(), np.eye(4)
    off[0, 3] = 0.5
    error = inverse_consistency(field(FIXED, matrix), FIXED, field(CENTERED, off @ np.linalg.inv(matrix)), CENTERED)
    torch.testing.assert_close(error, torch.full_like(error, 0.5), atol=1e-4, rtol=0)


def test_points_outside_the_moving_grid_do_not_count():
    away = np.eye(4)
    away[0, 3] = 1e3
    assert inverse_consistency(field(FIXED, away), FIXED, field(CENTERED, np.eye(4)), CENTERED).numel() == 0
    zero = torch.zeros(3, *FIXED.shape)
    assert inverse_consistency(zero, FIXED, zero, FIXED).numel() == (12 - 2) * (10 - 2) * (9 - 2)


def test_the_mask_chooses_fixed_voxels():
    zero, mask = torch.zeros(3, *FIXED.shape), torch.zeros(1, *FIXED.shape)
    mask[0, 0] = mask[0, 5, 5, 5] = 1
    assert inverse_consistency(zero, FIXED, zero, FIXED, mask).numel() == 1


def test_error_is_the_distance_inside_the_mask():
    truth = torch.zeros(3, 4, 5, 6)
    shifted = truth.clone()
    shifted[0, 1], shifted[1, 1] = 3, 4
    assert target_registration_error(shifted, truth).shape == (120,)
    mask = torch.zeros(4, 5, 6)
    mask[1] = 1
    torch.testing.assert_close(target_registration_error(shifted, truth, mask), torch.full((30,), 5.0, dtype=torch.float64))


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match="differ"):
        target_registration_error(torch.zeros(3, 4, 5, 6), torch.zeros(3, 4, 5, 7))
    with pytest.raises(ValueError, match="grid"):
        inverse_consistency(torch.zeros(3, 4, 5, 6), FIXED, torch.zeros(3, *MOVING.shape), MOVING)
