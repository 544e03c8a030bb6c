# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Several items at once: values and gradients of a loop over the items."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.networks.basis import BatchedBasis, LearnedBasis

ITEMS = 3


def images() -> list[torch.Tensor]:
    """Prediction, target and mask of a few items."""
    generator = torch.Generator().manual_seed(2)
    pred, target = torch.rand(2, ITEMS, 2, 9, 11, dtype=torch.float64, generator=generator)
    return [pred, target, torch.rand(ITEMS, 1, 9, 11, dtype=torch.float64, generator=generator)]


def called(loss: nn.Module, given: list[torch.Tensor]) -> list[torch.Tensor]:
    """Values of the windows, gradients of both images and of the basis."""
    pred, target, mask = given
    pred, target = pred.clone().requires_grad_(), target.clone().requires_grad_()
    values = loss(pred, target, mask)
    factor = torch.linspace(1, 2, values[0].numel(), dtype=values.dtype).view_as(values[:1])
    return [values, *torch.autograd.grad((values * factor).sum(), [pred, target, *loss.parameters()])]


@pytest.mark.parametrize("budget", [20, 0.05, 0.001], ids=["at once", "item by item", "in slabs"])
@pytest.mark.parametrize("form", ["log", "normalized", "robust"])
def test_each_item_has_a_basis_of_its_own(form, budget):
    bases = [LearnedBasis(2, 4, (7, 5), torch.Generator().manual_seed(n)).double() for n in range(ITEMS)]
    options = {"form": form, "reduction": "none", "memory_budget_mb": budget, "rescale": False}
    found = called(LocalLearnedBasisCRLoss(2, 2, basis=BatchedBasis(bases), **options).eval(), images())
    alone = [
        called(LocalLearnedBasisCRLoss(2, 2, basis=basis, **options).eval(), [x[n : n + 1] for x in images()])
        for n, basis in enumerate(bases)
    ]
    for number, ours in enumerate(found):
        expected = [one[number] if number < 3 else one[number][None] for one in alone]
        torch.testing.assert_close(ours, torch.cat(expected))


def test_a_shared_basis_has_the_sum_of_the_gradients():
    loss = LocalLearnedBasisCRLoss(2, 2, reduction="none", rescale=False).double().eval()
    found = called(loss, images())
    alone = [called(loss, [x[n : n + 1] for x in images()]) for n in range(ITEMS)]
    for number, ours in enumerate(found):
        parts = [one[number] for one in alone]
        torch.testing.assert_close(ours, torch.cat(parts) if number < 3 else torch.stack(parts).sum(0))


def test_the_basis_alone():
    bases = [LearnedBasis(2, 3, ()) for _ in range(ITEMS)]
    x = torch.rand(ITEMS, 2, 4, 5)
    expected = torch.cat([basis(x[n : n + 1]) for n, basis in enumerate(bases)])
    torch.testing.assert_close(BatchedBasis(bases)(x), expected)


def test_a_frozen_basis():
    basis = BatchedBasis([LearnedBasis(2) for _ in range(ITEMS)]).double()
    loss, (pred, target, mask) = LocalLearnedBasisCRLoss(2, 2, basis=basis, rescale=False).eval(), images()
    learned = torch.autograd.grad(loss(pred.requires_grad_(), target, mask), pred)[0]
    basis.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(loss(pred, target, mask), pred)[0], learned)


def test_refusals():
    with pytest.raises(ValueError, match="one size"):
        BatchedBasis([LearnedBasis(2), LearnedBasis(1)])
    basis, (pred, target, _) = BatchedBasis([LearnedBasis(2)] * 2), images()
    for call in (basis, lambda x: LocalLearnedBasisCRLoss(2, 2, basis=basis)(x, target)):
        with pytest.raises(ValueError, match="2 bases takes as many items, got 3"):
            call(pred)
