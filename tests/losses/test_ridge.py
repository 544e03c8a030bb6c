# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The closed-form residual against torch.linalg."""

from __future__ import annotations

import pytest
import torch

from monai_locor.losses.ridge import gram_pairs, ridge_residual

RIDGE = 1e-4


def moments(
    size: int, channels: int, samples: int = 40, windows: tuple[int, ...] = (3, 4)
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Moments as they occur, averages over `samples` voxels: A as upper triangle, c and b; batch 2, float64."""
    psi = torch.rand(2, size, samples, *windows, dtype=torch.float64)
    t = torch.rand(2, channels, samples, *windows, dtype=torch.float64)
    rows, cols = torch.tensor(gram_pairs(size)).T
    return (psi[:, rows] * psi[:, cols]).mean(2), (psi[:, :, None] * t[:, None]).mean(3), t.square().mean(2)


def plain(a: torch.Tensor, c: torch.Tensor, b: torch.Tensor, ridge: float) -> torch.Tensor:
    size = c.shape[1]
    rows, cols = torch.tensor(gram_pairs(size)).T
    matrix = a.new_zeros(a.shape[0], size, size, *a.shape[2:])
    matrix[:, rows, cols] = a
    matrix[:, cols, rows] = a
    matrix, rhs = matrix.movedim((1, 2), (-2, -1)), c.movedim((1, 2), (-2, -1))
    theta = torch.linalg.solve(matrix + ridge * torch.eye(size).to(a), rhs)
    fit = (theta * (matrix @ theta)).sum(-2) - 2 * (theta * rhs).sum(-2)
    return b + fit.movedim(-1, 1)


@pytest.mark.parametrize(("channels", "ridge"), [(1, 1.0), (3, 1e-4)])
@pytest.mark.parametrize("size", range(1, 13))
def test_value_and_gradients(size, channels, ridge):
    inputs = [x.requires_grad_() for x in moments(size, channels)]
    found, expected = ridge_residual(*inputs, ridge), plain(*inputs, ridge)
    assert found.shape == (2, channels, 3, 4)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    weight = torch.rand_like(found)
    for ours, theirs in zip(*(torch.autograd.grad((x * weight).sum(), inputs) for x in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_gradcheck(size):
    inputs = [x.requires_grad_() for x in moments(size, 2, windows=(2,))]
    assert torch.autograd.gradcheck(lambda *x: ridge_residual(*x, 1e-2), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_basis_function_that_stands_there_twice(dtype):
    """A is singular up to the ridge; the residual is still that of the best fit, the gradient finite."""
    once = moments(1, 1)
    inputs = [once[0].expand(-1, 3, *once[0].shape[2:]), once[1].expand(-1, 2, *once[1].shape[2:]), once[2]]
    inputs = [x.to(dtype).clone().requires_grad_() for x in inputs]
    found = ridge_residual(*inputs, RIDGE)
    torch.testing.assert_close(found, ridge_residual(*(x.to(dtype) for x in once), RIDGE / 2), rtol=1e-3, atol=1e-6)
    assert all(x.isfinite().all() for x in torch.autograd.grad(found.sum(), inputs))


def test_a_perfect_fit_leaves_almost_nothing():
    a, _, _ = moments(1, 1)
    found = ridge_residual(a, a[:, None], a, RIDGE)
    assert found.min() >= 0 and found.max() < 1e-6


def test_negative_rounding_is_clamped_and_has_no_gradient():
    a, c, b = (torch.full((1, *s), 1.0, requires_grad=True) for s in ((1, 2), (1, 1, 2), (1, 2)))
    residual = ridge_residual(a, c, b - 1e-3, 1e-6)
    residual.sum().backward()
    assert not residual.any() and not a.grad.any() and not c.grad.any() and not b.grad.any()


@pytest.mark.parametrize("size", [1, 5, 12])
def test_zero_moments(size):
    inputs = [x.mul(0).requires_grad_() for x in moments(size, 2)]
    found = ridge_residual(*inputs, RIDGE)
    assert not found.any()
    assert all(x.isfinite().all() for x in torch.autograd.grad(found.sum(), inputs))


@pytest.mark.parametrize("size", [1, 5, 12])
def test_float32_is_accurate(size):
    """To the rounding error of the moments themselves, far below the eps of the logarithm."""
    exact = moments(size, 2, windows=(100,))
    found = ridge_residual(*(x.float() for x in exact), RIDGE)
    assert found.dtype == torch.float32
    assert (found - ridge_residual(*exact, RIDGE)).abs().max() < 1e-5
