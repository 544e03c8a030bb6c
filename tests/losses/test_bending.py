# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The bending energy is MONAI's."""

from __future__ import annotations

import pytest
import torch
from monai.losses import BendingEnergyLoss

from monai_locor.losses import bending
from monai_locor.losses.bending import bending_energy


@pytest.mark.parametrize("shape", [(2, 2, 5, 7), (1, 3, 3, 3, 3), (2, 3, 6, 5, 4)])
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_value_and_gradient_are_those_of_monai(shape, device):
    u = torch.randn(*shape, dtype=torch.float64, device=device).requires_grad_()
    ours, theirs = bending_energy(u), BendingEnergyLoss()(u)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, u), torch.autograd.grad(theirs, u))


def test_affine_displacements_do_not_bend():
    index = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (5, 6, 7)], indexing="ij"))
    u = torch.tensordot(torch.randn(3, 3, dtype=torch.float64), index, dims=1) + 2
    assert float(bending_energy(u[None])) < 1e-20


@pytest.mark.parametrize("shape", [(2, 2, 4, 5), (1, 3, 4, 3, 5)])
def test_the_gradient_is_that_of_the_value(shape):
    u = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bending_energy, (u,))


def test_components_in_portions_are_the_same(monkeypatch):
    u = torch.randn(2, 3, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    whole = bending_energy(u)
    monkeypatch.setitem(bending.MAX_POINTS_AT_ONCE, "cpu", 2 * 6 * 5 * 4)
    parts = bending_energy(u)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, u), torch.autograd.grad(whole, u))


def test_each_item_of_a_vmapped_batch_is_its_own():
    u = torch.randn(3, 1, 2, 5, 4, dtype=torch.float64)
    found = torch.func.vmap(torch.func.grad_and_value(bending_energy))(u)
    for item, gradient, value in zip(u, *found):
        item.requires_grad_()
        torch.testing.assert_close(bending_energy(item), value)
        torch.testing.assert_close(torch.autograd.grad(bending_energy(item), item)[0], gradient)


@pytest.mark.parametrize("shape", [(1, 2, 5, 2), (1, 3, 1, 4, 4), (3, 4)])
def test_without_inner_voxels(shape):
    with pytest.raises(ValueError, match="three voxels or more along each axis"):
        bending_energy(torch.zeros(shape))
