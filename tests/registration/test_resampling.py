# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading through positions at nodes: the same as with all positions at once, in value and gradient."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch

from monai_locor.geometry import interpolation_matrix, sample_normalized, separable
from monai_locor.registration.resampling import Resampling

SHAPES = {2: ((9, 7), (4, 3), (11, 13)), 3: ((9, 7, 8), (4, 3, 5), (11, 13, 6))}  # image, nodes, samples
BUDGETS = [1, 300, 10**6]


def case(dims: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Image ``(1, 2, ...)``, nodes ``(D, ...)`` reaching beyond its border, matrices to the samples; float64."""
    image_shape, nodes, samples = SHAPES[dims]
    matrices = [interpolation_matrix(np.linspace(0, m - 1, n), m) for m, n in zip(nodes, samples)]
    image = torch.rand(1, 2, *image_shape, dtype=torch.float64)
    return image, torch.rand(dims, *nodes, dtype=torch.float64) * 5 - 2.5, [torch.from_numpy(m) for m in matrices]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("budget", BUDGETS)
class TestResampling:
    def test_values(self, dims, budget):
        image, nodes, matrices = case(dims)
        values, inside = Resampling(matrices, budget)(image, nodes)
        points = separable(matrices, nodes).flatten(1).T[None]
        torch.testing.assert_close(values.flatten(2), sample_normalized(image, points))
        assert torch.equal(inside.flatten(), (points[0].abs() <= 1).all(-1).double())
        assert values.shape[2:] == inside.shape[2:] == SHAPES[dims][2] and 0.1 < float(inside.mean()) < 0.9

    def test_gradient(self, dims, budget):
        image, nodes, matrices = case(dims)
        gradient = torch.rand(1, 2, *SHAPES[dims][2], dtype=torch.float64)
        leaf = nodes.clone().requires_grad_()
        points = separable(matrices, leaf).flatten(1).T[None]
        (expected,) = torch.autograd.grad(sample_normalized(image, points), leaf, gradient.flatten(2))
        leaf = nodes.clone().requires_grad_()
        (found,) = torch.autograd.grad(Resampling(matrices, budget)(image, leaf)[0], leaf, gradient)
        torch.testing.assert_close(found, expected)
        assert float(expected.abs().max()) > 0


@pytest.mark.slow
def test_gradcheck():
    """Of a few random sums of all values: a backward pass for each."""
    image, nodes, matrices = case(3)
    resampling, sums = Resampling(matrices, 200), torch.rand(2 * prod(SHAPES[3][2]), 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda n: resampling(image, n)[0].flatten() @ sums, nodes.requires_grad_(), atol=1e-4, eps=1e-7
    )


def test_portions_change_nothing_but_rounding(device):
    image, nodes, matrices = ([x.to(device) for x in v] if isinstance(v, list) else v.to(device) for v in case(3))
    found = [Resampling(matrices, budget)(image, nodes)[0] for budget in BUDGETS]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
