# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Inverses of steps, and the refined inverse, which undoes the forward displacement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import FieldStep, Grid, from_voxels
from monai_locor.geometry.inversion import _covering, fitted_affine, inverted_step, refined_inverse
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


class TestInvertedStep:
    GRID = grid_of((12, 11, 10), (2.0, 1.8, 2.4), (3, -4, 8), turn=0.2)

    def test_no_displacement_is_its_own_inverse(self):
        found = inverted_step(FieldStep(torch.zeros(3, *self.GRID.shape), self.GRID))
        assert float(found.displacement.abs().max()) < 1e-5
        np.testing.assert_allclose(found.grid.spacing, self.GRID.spacing)
        assert (np.array(found.grid.shape) - self.GRID.shape <= 1).all()  # it need not start at a voxel of the domain

    def test_a_translation_is_undone_by_the_opposite_one_on_the_moved_grid(self):
        shift = torch.tensor([5.0, -3.0, 1.0]).reshape(3, 1, 1, 1)
        found = inverted_step(FieldStep(shift.expand(3, *self.GRID.shape), self.GRID))
        torch.testing.assert_close(found.displacement, -shift.expand(3, *found.grid.shape), rtol=0, atol=1e-4)
        apart = np.abs(found.grid.center - self.GRID.center - [5, -3, 1])
        assert (apart < self.GRID.spacing.max()).all()

    @pytest.mark.parametrize("seed", range(2))
    def test_an_affine_field_has_the_inverse_matrix_everywhere(self, seed):
        """Also outside the mapped domain, where the step is extrapolated by its affine map."""
        matrix = np.eye(4)
        matrix[:3] += np.random.default_rng(seed).uniform(-0.15, 0.15, (3, 4))
        larger = grid_of((14, 14, 14), (3.0, 3.0, 3.0), (3, -4, 8))
        found = inverted_step(FieldStep(displaced(self.GRID, matrix), self.GRID), larger)
        expected = displaced(larger, np.linalg.inv(matrix))
        torch.testing.assert_close(found.displacement, expected, rtol=0, atol=5e-3)

    def test_a_smooth_field_and_its_inverse_cancel_at_the_nodes(self):
        step = FieldStep(0.2 * random_diffeomorphism(self.GRID, seed=5), self.GRID)
        found = inverted_step(step, self.GRID)
        nodes = torch.from_numpy(self.GRID.points().reshape(-1, 3))
        back = step.apply(found.apply(nodes))
        away = torch.linalg.vector_norm(back - nodes, dim=1)
        assert float(away.quantile(0.5)) < 5e-3  # nodes that are mapped from outside the domain have no exact inverse


class TestFittedAffine:
    POINTS = torch.from_numpy(np.random.default_rng(0).uniform(-20, 20, (40, 3)))

    def test_it_commutes_with_translations_of_both_sides(self):
        mapped = self.POINTS @ torch.diag(torch.tensor([1.1, 0.9, 1.0], dtype=torch.float64)) + torch.randn(40, 3)
        one, two = fitted_affine(self.POINTS, mapped), fitted_affine(self.POINTS + 100, mapped - 7)
        np.testing.assert_allclose(one[:3, :3], two[:3, :3], atol=1e-9)
        np.testing.assert_allclose(two[:3, 3], one[:3, 3] - 7 - one[:3, :3] @ np.full(3, 100), atol=1e-7)

    def test_residuals_are_orthogonal_to_all_affine_maps(self):
        mapped = self.POINTS + torch.randn(40, 3, dtype=torch.float64)
        matrix = fitted_affine(self.POINTS, mapped)
        rest = mapped.numpy() - self.POINTS.numpy() @ matrix[:3, :3].T - matrix[:3, 3]
        np.testing.assert_allclose(rest.sum(0), 0, atol=1e-9)
        np.testing.assert_allclose(self.POINTS.numpy().T @ rest, 0, atol=1e-7)


def test_the_covering_grid_holds_all_points_with_the_same_spacing():
    points = torch.from_numpy(np.random.default_rng(0).uniform(-9, 9, (50, 3)))
    found = _covering(points, FIXED, affine_of(0.3, 1.0))
    np.testing.assert_allclose(found.spacing, FIXED.spacing)
    np.testing.assert_allclose(found.affine[:3, :3], affine_of(0.3, 1.0)[:3, :3] @ FIXED.affine[:3, :3], atol=1e-12)
    voxels = (points.numpy() - found.affine[:3, 3]) @ np.linalg.inv(found.affine[:3, :3]).T
    assert voxels.min() > -1e-5 and (voxels.max(0) < np.array(found.shape) - 1 + 1e-5).all()
