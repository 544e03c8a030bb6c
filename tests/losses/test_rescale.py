# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Rescaling: where the range is read from, and the exact derivative of what is computed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.intensity import intensity_range, rescale, robust_range, subsample_step

from ..parameters import mostly_slow
from .test_measures import NAMES, make

SHAPES = [(91, 109, 91), (121, 145, 121), (224, 224, 224), (256, 256, 256), (512, 512, 300), (60, 48, 36), (30030, 64)]
LOCOR = {
    "locor": lambda dims, **k: LocalLearnedBasisCRLoss(dims, num_basis=3, hidden_channels=(4,), **k),
    "locor normalized": lambda dims, **k: LocalLearnedBasisCRLoss(dims, basis="polynomial", form="normalized", **k),
}
ALL: dict[str, Callable[..., nn.Module]] = LOCOR | {n: (lambda *a, n=n, **k: make(n, *a, **k)) for n in NAMES}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_subsample_sees_every_plane_of_every_axis(shape):
    """As often as it should, to a quarter."""
    step = subsample_step(shape)
    index = torch.arange(0, math.prod(shape), step)
    assert len(index) >= 60000
    for place in torch.unravel_index(index, shape):
        count = torch.bincount(place)
        expected = len(index) / len(count)
        if expected > 50:
            assert count.min() > 0.75 * expected and count.max() < 1.25 * expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(91, 109, 91), (121, 45, 121), (128, 128, 128)], ids=str)
def test_an_image_that_varies_along_one_axis_only(shape, axis):
    """The quantiles are those of all voxels."""
    n = shape[axis]
    ramp = torch.rand(n)[torch.randperm(n)].view([n if i == axis else 1 for i in range(3)]).expand(1, 1, *shape)
    found = robust_range(ramp.contiguous(), None, 0.1)
    for value, q in zip(found, (0.1, 0.9), strict=True):
        share = (ramp <= value.float()).float().mean()
        assert abs(share - q) < 1.5 / n


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("quantile", [0.0, 0.1])
def test_the_ends_are_intensities_of_voxels_that_count(quantile, masked):
    image = torch.rand(2, 3, 9, 8)
    valid = torch.rand(2, 1, 9, 8) > 0.5 if masked else None
    found = intensity_range(image, valid, quantile)
    for value, index in ((found.low, found.low_at), (found.high, found.high_at)):
        assert torch.equal(image.flatten(2).gather(2, index[..., None])[..., 0].double(), value)
        if valid is not None:
            assert valid.expand_as(image).flatten(2).gather(2, index[..., None]).all()
    assert found.frozen().low_at is None and torch.equal(found.frozen().high, found.high)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("shape", [(12,), (3, 5), (2, 3, 4)], ids=str)
def test_gradcheck_of_rescaling(shape, masked):
    image = (3 * torch.rand(2, 2, *shape, dtype=torch.float64) + 10).requires_grad_()
    valid = torch.rand(2, 1, *shape) > 0.3 if masked else None
    assert torch.autograd.gradcheck(lambda x: rescale(x, valid), image)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("name", ALL)
def test_gradcheck_of_every_loss(name, masked):
    """With its defaults, rescaling included."""
    loss = ALL[name](2).double().eval()
    pred, target = ((5 * torch.rand(2, 1, 6, 7, dtype=torch.float64) - 20).requires_grad_() for _ in range(2))
    mask = (torch.rand(2, 1, 6, 7) > 0.2).double() if masked else None
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, mask), (pred, target), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_is_orthogonal_to_what_changes_nothing(name):
    """Offset and scale of either image leave the loss as it is."""
    loss = ALL[name](3).double().eval()
    images = [(300 * torch.rand(1, 1, 9, 8, 7, dtype=torch.float64) + 1000).requires_grad_() for _ in range(2)]
    for image, gradient in zip(images, torch.autograd.grad(loss(*images), images), strict=True):
        size = gradient.norm() * math.sqrt(gradient.numel())
        assert size > 0
        assert gradient.sum().abs() < 1e-9 * size
        assert (gradient * (image - 1000) / 300).sum().abs() < 1e-9 * size


@pytest.mark.parametrize("name", ALL)
def test_memory_layout_does_not_matter(name):
    loss = ALL[name](3).double().eval()
    images = [torch.rand(1, 1, 7, 8, 9, dtype=torch.float64).requires_grad_() for _ in range(2)]
    others = [x.detach().transpose(2, 4).contiguous().transpose(2, 4).requires_grad_() for x in images]
    expected = torch.autograd.grad(loss(*images), images)
    for ours, theirs in zip(torch.autograd.grad(loss(*others), others), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def two_convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.ReLU(), nn.Conv3d(1, 1, 3, padding=1))


def decrease(seed: int, size: int, training: bool) -> float:
    """Of the loss in the situation of MONAI's integration test: 100 steps, the basis fixed, the range free to move."""
    torch.manual_seed(seed)
    target = torch.rand(1, 1, size, size, size)
    network, loss = two_convolutions(), LocalLearnedBasisCRLoss().train(training)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    values = []
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(pred=network(12 * target + 27), target=target)
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values[0] - values[-1]


@pytest.mark.parametrize("training", mostly_slow([True, False]), ids=["train", "eval"])
@pytest.mark.parametrize("seed", mostly_slow(range(4)))
def test_training_decreases_the_loss(seed, training):
    """On MONAI's five voxels along each axis; a fresh loss is in `train()`, and MONAI leaves it so."""
    assert decrease(seed, 5, training) > 0


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("seed", range(3))
def test_training_decreases_the_loss_of_a_larger_volume(seed, training):
    assert decrease(seed, 16, training) > 0
