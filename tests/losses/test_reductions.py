# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One contract of the three reductions for all measures, and which windows count."""

from __future__ import annotations

import pytest
import torch

from monai_locor.losses import LocalLearnedBasisCRLoss, LocalNCCLoss, LocalParzenCRLoss, SRWCRLoss

from .test_measures import KINDS, NAMES
from .test_rescale import ALL

GLOBAL = [name for name in NAMES if name.split()[0] in ("mi", "nmi", "cr")]


def images(*shape: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(batch, 1, *shape), torch.rand(batch, 1, *shape)


def weights(*shape: int, batch: int = 2) -> torch.Tensor:
    """Any weights; none in a corner of each item, of another size."""
    mask = torch.rand(batch, 1, *shape)
    for item in range(batch):
        mask[item, ..., : 3 + 4 * item] = 0
    return mask


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("name", ALL)
def test_mean_and_sum_are_those_of_the_values(name, masked):
    pred, target = images(13, 14)
    mask = weights(13, 14) if masked else None
    loss = {r: ALL[name](2, reduction=r).eval() for r in ("mean", "sum", "none")}
    for other in loss.values():
        other.load_state_dict(loss["mean"].state_dict())
    values, counted = loss["none"](pred, target, mask, return_weights=True)
    assert values.shape == counted.shape == loss["none"](pred, target, mask).shape
    assert counted.min() >= 0 and counted.max() <= 1 and not values[counted == 0].any()
    assert masked or counted.all() or name == "srwcr"
    per_item = values[..., None].flatten(2).sum(2) / counted[..., None].flatten(2).sum(2)
    torch.testing.assert_close(loss["mean"](pred, target, mask), per_item.mean())
    torch.testing.assert_close(loss["sum"](pred, target, mask), values.sum())
    if not masked:
        torch.testing.assert_close(loss["mean"](pred, target), values.mean())


@pytest.mark.parametrize("name", [name for name in ALL if name not in GLOBAL and "counting" not in name])
def test_what_does_not_count_is_told_from_a_value_of_zero(name):
    loss = ALL[name](2, reduction="none").eval()
    pred, target = images(30, 30, batch=1)
    mask = torch.ones(1, 1, 30, 30)
    mask[..., :20] = 0
    values, counted = loss(pred, target, mask, return_weights=True)
    assert values.isfinite().all() and 0 < counted.sum() < counted.numel()
    everything, every = loss(pred, target, return_weights=True)
    assert every.all() and everything.shape == values.shape


@pytest.mark.parametrize("name", ["locor", *KINDS])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights_of_a_single_number_are_refused(name, reduction):
    with pytest.raises(ValueError, match="return_weights"):
        ALL[name](2, reduction=reduction)(*images(9, 9), return_weights=True)


WINDOWED = {
    "locor": lambda **k: LocalLearnedBasisCRLoss(3, reduction="none", **k),
    "normalized": lambda **k: LocalLearnedBasisCRLoss(3, form="normalized", reduction="none", **k),
    "lncc": lambda **k: LocalNCCLoss(3, reduction="none", kernel_size=5, **k),
    "gaussian lncc": lambda **k: LocalNCCLoss(3, "gaussian", stride=2, reduction="none", **k),
    "local cr": lambda **k: LocalParzenCRLoss(3, num_bins=8, reduction="none", **k),
    "patches": lambda **k: LocalParzenCRLoss(3, num_bins=8, num_patches=40, reduction="none", **k),
}


@pytest.mark.parametrize(("shape", "training"), [((20, 21, 22), True), ((7, 31, 9), False)], ids=["train", "eval"])
@pytest.mark.parametrize("name", WINDOWED)
def test_all_windows_count_where_all_voxels_do(name, shape, training):
    """A mass that rounding has made a little less than one is enough for `min_mass=1`."""
    loss = WINDOWED[name](min_mass=1.0).train(training)
    for _ in range(3 if training else 1):
        _, counted = loss(*images(*shape, batch=1), torch.ones(1, 1, *shape), return_weights=True)
        assert counted.all()


@pytest.mark.parametrize("name", WINDOWED)
def test_a_missing_voxel_is_not_rounding(name):
    mask = torch.ones(1, 1, 20, 21, 22)
    mask[..., 10, 10, 10] = 0
    _, counted = WINDOWED[name](min_mass=1.0).eval()(*images(20, 21, 22, batch=1), mask, return_weights=True)
    assert not counted.all() and counted.any()


def test_srwcr_is_the_published_sum():
    """Its regions are weighted by their mass: the mean of their values is the published number, which is a share."""
    pred, target = images(17, 18, batch=1)
    mean, total = (SRWCRLoss(2, reduction=r)(pred, target) for r in ("mean", "sum"))
    values = SRWCRLoss(2, reduction="none")(pred, target)
    assert 0.3 < mean <= 1
    torch.testing.assert_close(total / values.numel(), mean)
