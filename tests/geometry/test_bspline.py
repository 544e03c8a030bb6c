# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The cubic B-spline: a smooth partition of unity that reproduces cubic polynomials, the same in both forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from monai_locor.geometry.bspline import CUBIC_NODE_VALUES, cubic_bspline, cubic_weights

T = torch.linspace(0, 1, 41, dtype=torch.float64)
NODES = torch.arange(-1, 3, dtype=torch.float64)  # of the four weights, relative to the second


def test_it_is_scipys():
    x = np.linspace(-3, 3, 121)
    expected = BSpline.basis_element(np.arange(-2.0, 3), extrapolate=False)(x)
    np.testing.assert_allclose(cubic_bspline(x), np.nan_to_num(expected), atol=1e-14)


def test_tensor_and_array_agree_and_keep_their_type():
    x = np.random.default_rng(0).uniform(-3, 3, (4, 5))
    # vectorized code of some processors rounds differently
    np.testing.assert_allclose(cubic_bspline(torch.from_numpy(x)).numpy(), cubic_bspline(x), rtol=1e-15, atol=1e-20)
    assert cubic_bspline(torch.from_numpy(x).float()).dtype == torch.float32


def test_even_positive_and_zero_beyond_two_nodes():
    x = torch.linspace(0, 4, 81, dtype=torch.float64)
    torch.testing.assert_close(cubic_bspline(-x), cubic_bspline(x), rtol=0, atol=0)
    assert bool((cubic_bspline(x[x < 2]) > 0).all()) and not cubic_bspline(x[x >= 2]).any()


def test_values_at_the_nodes():
    found = cubic_bspline(np.array(list(CUBIC_NODE_VALUES), dtype=float))
    np.testing.assert_allclose(found, list(CUBIC_NODE_VALUES.values()), atol=1e-15)
    assert sum(CUBIC_NODE_VALUES.values()) == pytest.approx(1)


def test_weights_are_the_spline_at_the_four_nodes():
    expected = torch.stack([cubic_bspline(T - node) for node in NODES])
    torch.testing.assert_close(cubic_weights(T), expected, rtol=0, atol=1e-14)


def test_weights_sum_to_one_and_mirror():
    torch.testing.assert_close(cubic_weights(T).sum(0), torch.ones_like(T))
    torch.testing.assert_close(cubic_weights(1 - T), cubic_weights(T).flip(0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_weights_of_any_shape(shape):
    t = torch.rand(shape, dtype=torch.float64)
    found = cubic_weights(t)
    assert found.shape == (4, *shape)
    torch.testing.assert_close(found.reshape(4, -1), torch.stack([cubic_weights(x) for x in t.flatten()], 1))


def test_weights_continue_across_nodes():
    """Value and two derivatives at the end of one interval are those at the beginning of the next."""

    def derivatives(t: float) -> list[torch.Tensor]:
        at = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        found = [cubic_weights(at)]
        for _ in range(2):
            found.append(torch.stack([torch.autograd.grad(w, at, create_graph=True)[0] for w in found[-1]]))
        return [f.detach() for f in found]

    for end, begin in zip(derivatives(1.0), derivatives(0.0), strict=True):
        torch.testing.assert_close(end[1:], begin[:3], rtol=0, atol=1e-12)
        torch.testing.assert_close((end[0], begin[3]), (torch.zeros((), dtype=torch.float64),) * 2, rtol=0, atol=1e-12)


def test_linear_coefficients_give_a_line_and_quadratic_ones_a_parabola():
    """Coefficients ``x`` give ``x``; coefficients ``x ** 2`` give ``x ** 2 + 1 / 3``, the variance of the spline."""
    weights = cubic_weights(T)
    torch.testing.assert_close((weights * NODES[:, None]).sum(0), T, rtol=0, atol=1e-14)
    torch.testing.assert_close((weights * NODES[:, None] ** 2).sum(0), T**2 + 1 / 3, rtol=0, atol=1e-14)


def test_gradcheck():
    """Also for the pieces of the other form, away from the nodes."""
    t = torch.tensor([-1.7, -0.4, 0.3, 1.2, 2.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cubic_bspline, t)
    assert torch.autograd.gradcheck(cubic_weights, t)
