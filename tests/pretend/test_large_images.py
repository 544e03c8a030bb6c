# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Losses of large images, with fake tensors: how many launches, how much memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from monai_locor.losses import (
    LocalLearnedBasisCRLoss,
)
from monai_locor.losses.streaming import SLAB_BUDGET_MB

from ..parameters import LOSSES, mostly_slow
from .agreement import at_most
from .fake import FakeCuda, moved
from .record import Record

SLOW = mostly_slow(LOSSES)
# of forward and backward at 128^3 with the defaults, which a change may lower: launches, and floats that are alive for each
# voxel, images and gradients among them
CEILINGS = {
    "LocalLearnedBasisCRLoss": (297, 88.6),
    "MutualInformationLoss": (730, 20.9),
    "CorrelationRatioLoss": (592, 18.3),
    "LocalParzenCRLoss": (309, 77.5),
    "SRWCRLoss": (373, 146.6),
    "LocalNCCLoss": (283, 32.8),
    "MINDSSCLoss": (1276, 46.2),
}


def called(make: Callable[[], nn.Module], size: int) -> Record:
    """Forward and backward of one pair of images, gradients of both."""
    loss = make()
    with FakeCuda() as mode:
        moved(loss)
        images = [torch.rand(1, 1, size, size, size, device="cuda").requires_grad_() for _ in range(2)]
        record = mode.forget()
        record.alive(images)
        loss(*images).backward()
    return record


@pytest.mark.parametrize("name", SLOW)
def test_launches_and_memory(name):
    record = called(LOSSES[name], 128)
    assert not record.waits
    counted = {"launches": sum(record.launches.values()), "floats for each voxel": round(record.peak / 4 / 128**3, 1)}
    at_most(counted, dict(zip(counted, CEILINGS[name])), name)


def test_launches_of_the_loss_of_a_registration():
    """Intensity and derivative, weights, no rescaling, gradients of the moving image and of the basis."""
    loss = LocalLearnedBasisCRLoss(in_channels=2, rescale=False)
    with FakeCuda() as mode:
        moved(loss)
        moving, fixed = (torch.rand(1, 2, 128, 128, 128, device="cuda") for _ in range(2))
        weight = torch.rand(1, 1, 128, 128, 128, device="cuda")
        for _ in range(2):  # what is made once for an image size is made in the first call
            record = mode.forget()
            loss(moving.requires_grad_(), fixed, weight).backward()
            moving.grad = None
            loss.zero_grad()
    assert not record.waits
    at_most({"launches": sum(record.launches.values())}, {"launches": 104}, "the loss of a registration")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_plane_more_takes_a_plane_more(name):
    """The last portion of an image is smaller than the others; that must not cost as much as one of them."""
    one, other = (called(LOSSES[name], size).peak / size**3 for size in (128, 129))
    assert other < 1.1 * one


@pytest.mark.slow
@pytest.mark.parametrize("size", [256, 257, 300])
def test_the_default_loss_keeps_to_its_budget(size):
    """That is of what it makes portion by portion. Images, gradients and sums over windows come on top."""
    peak = called(LocalLearnedBasisCRLoss, size).peak
    assert peak < SLAB_BUDGET_MB["cuda"] * 2**20 + 10 * 4 * size**3, f"{peak / 2**30:.2f} GiB"


def test_what_is_counted():
    """The test can fail: a loss that keeps a lot, one that waits."""

    class Lavish(nn.Module):
        def forward(self, pred, target):
            return torch.stack([(pred - target).square() * k for k in range(10)]).mean()

    assert called(Lavish, 16).peak >= 4 * 16**3 * 20
    with pytest.raises(RuntimeError, match="_local_scalar_dense"), FakeCuda():
        torch.rand(3, device="cuda").sum().item()
