# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tensors turn with the space around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid
from monai_locor.geometry.reorientation import TENSOR_COLUMNS, TENSOR_ROWS, jacobian_matrices, turned_tensors

GRID = Grid((5, 4, 3), np.array([[2.0, 0.3, 0, -4], [0, -1.5, 0, 2], [0.1, 0, 3, 1], [0, 0, 0, 1]]))


def tensors(count: int = 60, seed: int = 0) -> np.ndarray:
    """Positive definite, ``(count, 3, 3)``."""
    roots = np.random.default_rng(seed).standard_normal((count, 3, 3))
    return roots @ roots.transpose(0, 2, 1)


def lower(full: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([full[:, i, j] for i, j in zip(TENSOR_ROWS, TENSOR_COLUMNS)])).reshape(6, *GRID.shape)


def full(lower: torch.Tensor) -> np.ndarray:
    out = np.zeros((60, 3, 3))
    for value, i, j in zip(lower.reshape(6, -1).numpy(), TENSOR_ROWS, TENSOR_COLUMNS):
        out[:, i, j] = out[:, j, i] = value
    return out


def displacement(matrix: np.ndarray) -> torch.Tensor:
    """Of a linear map from fixed to moving points, ``(3, *GRID)``."""
    points = GRID.points()
    return torch.from_numpy(np.moveaxis(points @ (matrix - np.eye(3)).T, -1, 0).copy())


def rotation(seed: int) -> np.ndarray:
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def test_the_order_is_that_of_nifti():
    assert [f"{'xyz'[j]}{'xyz'[i]}" for i, j in zip(TENSOR_ROWS, TENSOR_COLUMNS)] == ["xx", "xy", "yy", "xz", "yz", "zz"]


def test_the_jacobian_is_exact_for_affine_maps():
    matrix = np.eye(3) + 0.2 * np.random.default_rng(3).standard_normal((3, 3))
    found = jacobian_matrices(displacement(matrix), GRID)
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(matrix, found.shape), atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_a_rotation_turns_them_as_a_whole_and_size_does_not_matter(scale):
    given, turn = tensors(), rotation(1)
    found = full(turned_tensors(lower(given), displacement(scale * turn), GRID))
    np.testing.assert_allclose(found, turn.T @ given @ turn, atol=1e-9)


def test_a_quarter_turn():
    """Fibers along x in the moving image run along y in the fixed one."""
    given = lower(np.broadcast_to(np.diag([3.0, 1, 1]), (60, 3, 3)))
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    found = full(turned_tensors(given, displacement(quarter), GRID))
    np.testing.assert_allclose(found, np.broadcast_to(np.diag([1.0, 3, 1]), found.shape), atol=1e-12)


def test_a_shear_takes_the_principal_direction_along_and_keeps_the_eigenvalues():
    given, matrix = tensors(), np.eye(3) + 0.3 * np.random.default_rng(5).standard_normal((3, 3))
    found = full(turned_tensors(lower(given), displacement(matrix), GRID))
    before, after = np.linalg.eigh(given), np.linalg.eigh(found)
    np.testing.assert_allclose(after[0], before[0], atol=1e-9)
    back = np.linalg.inv(matrix)
    first = np.einsum("ij,nj->ni", back, before[1][..., 2])
    np.testing.assert_allclose(np.abs((first * after[1][..., 2]).sum(1)), np.linalg.norm(first, axis=1), atol=1e-9)
    normal = np.cross(first, np.einsum("ij,nj->ni", back, before[1][..., 1]))  # the third stands on both
    np.testing.assert_allclose(np.abs((normal * after[1][..., 0]).sum(1)), np.linalg.norm(normal, axis=1), atol=1e-9)


def test_axes_of_the_voxels():
    """A tensor written along the axes of images that lie differently, at rest in the world."""
    given, first, second = tensors(), rotation(7), rotation(8) @ np.diag([1.0, -1, 1])
    still = torch.zeros(3, *GRID.shape, dtype=torch.float64)
    found = full(turned_tensors(lower(first.T @ given @ first), still, GRID, (first, second)))
    np.testing.assert_allclose(found, second.T @ given @ second, atol=1e-9)


def test_what_cannot_be_turned_stays():
    given = lower(tensors())
    given[:, 0, 0, 0] = torch.nan
    given[:, 1, 1, 1] = 0
    found = turned_tensors(given.float(), displacement(np.diag([1.0, 1, 0])), GRID)
    torch.testing.assert_close(found, given.float(), equal_nan=True)
    assert not turned_tensors(given, displacement(rotation(1)), GRID)[:, 1, 1, 1].any()
