# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""LocalLearnedBasisCRLoss against float64 autograd through an independent implementation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_locor.losses import LocalLearnedBasisCRLoss

from ..parameters import mostly_slow
from .reference import next_shift, reference, window_values

TOLERANCE = 1e-6


class Waves(nn.Module):
    """A user's basis: learned, with a constant, and it does not say how many functions it has."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.linspace(1, 3, in_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phase = (x.movedim(1, -1) * self.frequency).movedim(-1, 1)
        return torch.cat([torch.ones_like(x[:, :1]), phase.sin(), phase.cos()], 1)


CASES = {
    "1d": ((13,), {}),
    "1d long": ((97,), {"memory_budget_mb": 1e-3}),
    "1d single voxel": ((1,), {}),
    "2d": ((9, 14), {}),
    "2d smaller than the window": ((2, 3), {"kernel_sigma": 2.0}),
    "3d": ((7, 8, 9), {}),
    "3d even": ((6, 12, 10), {}),
    "3d smaller than the window": ((2, 5, 3), {"kernel_sigma": (1.5, 2.0, 1.0)}),
    "3d single-voxel axes": ((1, 7, 1), {}),
    "3d single voxel": ((1, 1, 1), {}),
    "anisotropic": ((7, 10, 12), {"stride": (3, 2, 1), "kernel_sigma": (0.8, 1.2, 0.5)}),
    "fractional stride": ((8, 9), {"stride": (2.5, 0.75), "kernel_sigma": 0.7}),
    "stride wider than the window": ((7, 20), {"stride": 6, "kernel_sigma": 0.4}),
    "short truncation": ((11, 9), {"truncated": 1.0}),
    "many slabs": ((21, 6, 7), {"memory_budget_mb": 1e-4}),
    "one slab": ((21, 6, 7), {"memory_budget_mb": 1e3}),
    "strong ridge": ((9, 10), {"ridge": 0.1, "eps": 1e-2}),
    "no hidden layer": ((9, 10), {"hidden_channels": ()}),
    "one basis function": ((9, 10), {"num_basis": 1}),
}


def make(shape: tuple[int, ...], basis: str = "learned", **options: object) -> LocalLearnedBasisCRLoss:
    module = Waves(2) if basis == "user" else basis
    options = {"num_basis": 4, "degree": 2, "rescale": False} | options
    return LocalLearnedBasisCRLoss(len(shape), 2, basis=module, **options).double()


def images(shape: tuple[int, ...], batch: int = 2, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    pred = torch.rand(batch, 2, *shape, dtype=torch.float64, requires_grad=True)
    return pred, torch.rand(batch, channels, *shape, dtype=torch.float64, requires_grad=True)


def fractional_mask(shape: tuple[int, ...], batch: int = 2) -> torch.Tensor:
    """A third of the voxels weigh nothing, the others anything up to 1."""
    uniform = torch.rand(batch, 1, *shape, dtype=torch.float64)
    return (torch.rand_like(uniform) > 0.3) * uniform.sqrt()


def assert_same(found: torch.Tensor, expected: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    """Value and all gradients agree, relative to the largest entry."""
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=0)
    pairs = zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True)
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max() + 1e-14


@pytest.mark.parametrize(
    ("form", "masked"),
    [("log", True), ("normalized", False), ("robust", True)],
    ids=["log masked", "normalized", "robust masked"],
)
@pytest.mark.parametrize(("shape", "options"), CASES.values(), ids=CASES.keys())
def test_value_and_gradients(shape, options, form, masked, device):
    loss = make(shape, form=form, **options).to(device)
    pred, target = (x.detach().to(device).requires_grad_() for x in images(shape))
    mask = fractional_mask(shape).to(device) if masked else None
    torch.manual_seed(7)
    found = loss(pred, target, mask)
    assert_same(
        found, reference(loss, pred, target, mask, next_shift(loss, 7, pred.shape[2:])), [pred, target, *loss.parameters()]
    )


@pytest.mark.parametrize("form", ["log", "normalized", "robust"])
@pytest.mark.parametrize("basis", ["learned", "polynomial", "user"])
@pytest.mark.parametrize("training", [True, False])
def test_bases(basis, form, training):
    loss = make((6, 7, 8), basis, form=form).train(training)
    pred, target = images((6, 7, 8), channels=1)
    torch.manual_seed(7)
    found = loss(pred, target)
    assert_same(
        found, reference(loss, pred, target, None, next_shift(loss, 7, pred.shape[2:])), [pred, target, *loss.parameters()]
    )


@pytest.mark.parametrize("shape", [(13,), (9, 8), (5, 6, 7)])
def test_gradient_through_masked_inputs(shape):
    """Weights that a caller multiplies into the images are differentiated like other operations."""
    loss = make(shape).eval()
    pred, target = images(shape)
    weight = torch.rand(2, 1, *shape, dtype=torch.float64, requires_grad=True)
    mask = fractional_mask(shape)
    found = loss(pred * weight, target * weight, mask)
    expected = reference(loss, pred * weight, target * weight, mask)
    assert_same(found, expected, [pred, target, weight, *loss.parameters()])


def test_one_mask_for_the_whole_batch():
    loss = make((9, 8)).eval()
    pred, target = images((9, 8), batch=3)
    mask = fractional_mask((9, 8), batch=1)
    assert_same(loss(pred, target, mask), reference(loss, pred, target, mask), [pred, target, *loss.parameters()])


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_other_reductions(reduction):
    loss = make((9, 8), reduction=reduction).eval()
    pred, target = images((9, 8))
    mask = fractional_mask((9, 8))
    values, _ = window_values(loss, pred, target, mask)
    found = loss(pred, target, mask)
    expected = values.sum() if reduction == "sum" else values.view(2, 3, 4, 4)
    probe = torch.rand_like(expected)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=1e-12)
    assert_same((found * probe).sum(), (expected * probe).sum(), [pred, target, *loss.parameters()])


@pytest.mark.parametrize("wanted", ["pred", "target", "basis"])
def test_only_the_gradients_that_are_asked_for(wanted):
    loss = make((9, 8)).eval()
    pred, target = images((9, 8))
    expected = dict(pred=[pred], target=[target], basis=list(loss.parameters()))[wanted]
    theirs = torch.autograd.grad(reference(loss, pred, target), expected)
    for x in (pred, target, *loss.parameters()):
        x.requires_grad_(any(x is y for y in expected))
    loss(pred, target).backward()
    for x, grad in zip(expected, theirs, strict=True):
        torch.testing.assert_close(x.grad, grad, rtol=TOLERANCE, atol=1e-12)
    assert all(x.grad is None for x in (pred, target, *loss.parameters()) if not x.requires_grad)


def test_a_frozen_part_of_the_basis():
    loss = make((9, 8)).eval()
    pred, target = images((9, 8))
    frozen, *free = loss.parameters()
    frozen.requires_grad_(False)
    assert_same(loss(pred, target), reference(loss, pred, target), [pred, *free])


def test_memory_layout_does_not_matter():
    loss = make((6, 7, 8)).eval()
    pred, target = images((6, 7, 8), channels=2)
    strided = [x.detach().to(memory_format=torch.channels_last_3d).requires_grad_() for x in (pred, target)]
    transposed = [x.detach().mT.contiguous().mT.requires_grad_() for x in (pred, target)]
    expected = torch.autograd.grad(loss(pred, target), [pred, target])
    for other in (strided, transposed):
        for ours, theirs in zip(torch.autograd.grad(loss(*other), other), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("budget", [1e-4, 1e-2, 1.0])
def test_the_number_of_slabs_does_not_matter(budget):
    pred, target = images((30, 9, 8))
    mask = fractional_mask((30, 9, 8))
    small, large = (make((30, 9, 8), memory_budget_mb=mb).eval() for mb in (budget, 1e3))
    small.load_state_dict(large.state_dict())
    found, expected = (torch.autograd.grad(x(pred, target, mask), [pred, target, *x.parameters()]) for x in (small, large))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("budget", [1e-4, 1e3], ids=["many slabs", "one slab"])
@pytest.mark.parametrize("basis", ["learned", "polynomial", "user"])
def test_the_gradient_in_the_memory_of_the_prediction(basis, budget):
    """The same bytes; only the values of the prediction are lost, those of other channels are not."""
    shape = (12, 9, 8)
    given, target = images(shape, 1, 1)
    results, lost = [], []
    for overwrite in (False, True):
        torch.manual_seed(0)
        loss = make(shape, basis, memory_budget_mb=budget).eval()
        loss.overwrite_pred = overwrite
        warped = torch.cat([given, given[:, :1]], 1)
        value = loss(warped[:, :2], target.detach(), fractional_mask(shape, 1))
        before = warped.detach().clone()
        results.append([value, *torch.autograd.grad(value, [given, *loss.parameters()])])
        lost.append([not torch.equal(x, y) for x, y in zip(warped[0], before[0], strict=True)])
    assert lost == [[False] * 3, [True, True, False]]
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize("masked", mostly_slow([True, False]), ids=["masked", "all"])
@pytest.mark.parametrize("form", ["log", "normalized"])
@pytest.mark.parametrize("basis", ["learned", "polynomial"])
@pytest.mark.parametrize("shape", mostly_slow([(4, 3), (12,), (3, 4, 4)]))
def test_gradcheck(shape, basis, form, masked):
    loss = make(shape, basis, form=form, num_basis=3, hidden_channels=(3,)).eval()
    pred, target = images(shape, batch=1, channels=2)
    mask = fractional_mask(shape, batch=1) if masked else None
    # gradcheck moves its inputs in place, the parameters too
    inputs = (pred, target, *loss.parameters())
    assert torch.autograd.gradcheck(lambda x, y, *_: loss(x, y, mask), inputs, rtol=1e-3, atol=1e-7)
