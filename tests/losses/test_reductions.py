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


ROBUST = {"locor robust": lambda *a, **k: LocalLearnedBasisCRLoss(*a, form="robust", **k)}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", [name for name in [*ALL, *ROBUST] if "counting" not in name])
def test_items_without_a_valid_voxel_are_left_out_of_the_mean(name, channels):
    """They would count as 0, which is the best value of some measures."""
    options = {"in_channels": channels} if name.startswith("locor") else {}
    loss, values = ((ALL | ROBUST)[name](2, **options, reduction=r).eval() for r in ("mean", "none"))
    values.load_state_dict(loss.state_dict())
    pred, target, mask = torch.rand(3, channels, 13, 14), torch.rand(3, channels, 13, 14), torch.ones(3, 1, 13, 14)
    mask[1], target[2, -1] = 0, torch.nan  # nothing inside, nothing finite
    leaf = pred.clone().requires_grad_()
    found = loss(leaf, target, mask)
    found.backward()
    alone = pred[:1].clone().requires_grad_()
    expected = loss(alone, target[:1], mask[:1])
    expected.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(leaf.grad[:1], alone.grad)
    assert not leaf.grad[1:].any()
    each, counted = values(pred, target, mask, return_weights=True)
    assert not each[1:].any() and not counted[1:].any() and counted[0].any()
    none = loss(leaf, target, torch.zeros(3, 1, 13, 14))
    none.backward()
    assert none == 0 and not leaf.grad[1:].any()


@pytest.mark.parametrize("name", [name for name in ALL if "counting" in name])
def test_the_published_forms_count_all_voxels_of_all_items(name):
    pred, target = images(13, 14)
    mask = torch.ones(2, 1, 13, 14)
    mask[1] = 0
    first, second = (ALL[name](2)(pred[i : i + 1], target[i : i + 1], mask[i : i + 1]) for i in (0, 1))
    torch.testing.assert_close(ALL[name](2)(pred, target, mask), (first + second) / 2)


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
