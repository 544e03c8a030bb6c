# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The affine part: its exponential against torch's, its inverse, and that one learning rate fits all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, apply_affine
from monai_locor.networks.affine import AffineMap, matrix_exponential

OBLIQUE = Grid((9, 7, 8), np.array([[-1.4, 0.3, 0.2, 10], [0.2, 0.2, 2.5, -5], [0.1, -1.9, 0.3, 3], [0, 0, 0, 1.0]]))
PLANE = Grid((6, 5), np.array([[0.3, -1.5, 2], [-1.1, 0.2, 4], [0, 0, 1.0]]))
FAR = Grid((20, 20, 20), np.array([[2.0, 0, 0, 5000], [0, 2, 0, -3000], [0, 0, 2, 800], [0, 0, 0, 1]]))


def initial(dims: int) -> np.ndarray:
    matrix = np.eye(dims + 1)
    matrix[:-1] += 0.2 * np.random.default_rng(dims).standard_normal((dims, dims + 1))
    return matrix


def perturbed(grid: Grid, start: np.ndarray | None = None) -> AffineMap:
    module = AffineMap(grid, start)
    with torch.no_grad():
        module.log_matrix.copy_(0.1 * torch.randn_like(module.log_matrix))
    return module


class TestMatrixExponential:
    @pytest.mark.parametrize("size", [2, 3, 4])
    @pytest.mark.parametrize("norm", [0.0, 1e-3, 0.3, 1.0])
    def test_matches_torch(self, size, norm):
        matrix = torch.randn(size, size, dtype=torch.float64)
        matrix *= norm / torch.linalg.matrix_norm(matrix, 2)
        torch.testing.assert_close(matrix_exponential(matrix), torch.linalg.matrix_exp(matrix), atol=1e-13, rtol=1e-13)

    def test_large_norms_are_still_close(self):
        matrix = torch.randn(4, 4, dtype=torch.float64)
        matrix *= torch.pi / torch.linalg.matrix_norm(matrix, 2)
        torch.testing.assert_close(matrix_exponential(matrix), torch.linalg.matrix_exp(matrix), atol=1e-6, rtol=1e-6)

    def test_skew_matrices_become_rotations(self):
        skew = torch.randn(3, 3, dtype=torch.float64)
        rotation = matrix_exponential(0.3 * (skew - skew.T))
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        assert float(torch.linalg.det(rotation)) == pytest.approx(1)

    def test_gradcheck(self):
        matrix = (0.3 * torch.randn(4, 4, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(matrix_exponential, (matrix,))


@pytest.mark.parametrize("grid", [OBLIQUE, PLANE, FAR], ids=["oblique", "plane", "far"])
class TestAffineMap:
    def test_begins_as_the_identity(self, grid, device):
        module = AffineMap(grid).to(device)
        for inverse in (False, True):
            matrix = module(inverse)
            assert matrix.dtype == torch.float64 and matrix.device.type == device.type
            np.testing.assert_allclose(matrix.detach().cpu(), np.eye(grid.dims + 1), atol=1e-9)

    def test_begins_at_the_initial_matrix(self, grid):
        start = initial(grid.dims)
        np.testing.assert_allclose(AffineMap(grid, start)().detach(), start, atol=1e-9)
        np.testing.assert_allclose(AffineMap(grid, start)(inverse=True).detach(), np.linalg.inv(start), atol=1e-9)

    def test_forward_and_inverse_undo_each_other(self, grid):
        module = perturbed(grid, initial(grid.dims))
        identity = torch.eye(grid.dims + 1, dtype=torch.float64)
        torch.testing.assert_close(module() @ module(inverse=True), identity, atol=1e-8, rtol=0)
        assert not torch.allclose(module(), torch.from_numpy(initial(grid.dims)), atol=1e-2)

    def test_the_last_row_stays(self, grid):
        module = perturbed(grid, initial(grid.dims))
        expected = torch.eye(grid.dims + 1, dtype=torch.float64)[-1]
        torch.testing.assert_close(module()[-1], expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(module(inverse=True)[-1], expected, atol=1e-12, rtol=0)

    def test_the_linear_part_turns_about_the_center(self, grid):
        module = perturbed(grid)
        with torch.no_grad():
            module.log_matrix[:, -1] = 0
            moved = apply_affine(module().numpy(), grid.center)
        np.testing.assert_allclose(moved, grid.center, atol=1e-8)

    def test_gradcheck(self, grid):
        module = perturbed(grid, initial(grid.dims)).double()

        def matrix(log: torch.Tensor, inverse: bool) -> torch.Tensor:
            return torch.func.functional_call(module, {"log_matrix": log}, (inverse,))

        log = module.log_matrix.detach().clone().requires_grad_()
        for inverse in (False, True):
            assert torch.autograd.gradcheck(lambda x, inverse=inverse: matrix(x, inverse), (log,))

    def test_no_number_moves_the_border_much_more_than_another(self, grid):
        moved = largest_moves(grid)
        half = grid.extent.max() / 2
        assert moved.max() <= 1.01 * half * np.sqrt(grid.dims)
        np.testing.assert_allclose(moved[:, -1], half, rtol=1e-3)  # translations


def largest_moves(grid: Grid) -> np.ndarray:
    """Millimeters that the outermost voxel moves per unit of each of the numbers, ``(D, D + 1)``."""
    module, step = AffineMap(grid), 1e-4
    out = np.zeros(module.log_matrix.shape)
    for index in np.ndindex(*out.shape):
        with torch.no_grad():
            module.log_matrix.zero_()[index] = step
            moved = apply_affine(module().numpy(), grid.corners())
        out[index] = np.linalg.norm(moved - grid.corners(), axis=1).max() / step
    return out


def test_all_numbers_have_about_the_same_effect_on_a_cube():
    moved = largest_moves(FAR)
    assert moved.max() / moved.min() < 1.15
