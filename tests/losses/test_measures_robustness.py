# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Properties of all measures: masks, ranges of intensity, precision, sizes."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from monai_locor.losses import MutualInformationLoss

from .test_local_cr_robustness import assert_finite, gradients
from .test_measures import KINDS, NAMES, make
from .test_rescale import ALL


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


class TestMask:
    def test_voxels_outside_have_no_influence_and_no_gradient(self, name):
        loss = make(name, 3).eval()
        pred, target = torch.rand(2, 1, 9, 10, 11), torch.rand(2, 1, 9, 10, 11)
        mask = (torch.rand(2, 1, 9, 10, 11) > 0.4).float()
        expected = gradients(loss, pred, target, mask)
        outside = mask == 0
        assert not expected[1][outside].any() and not expected[2][outside].any()
        for junk in (1e9, -3.0, math.nan, math.inf):
            found = gradients(loss, pred.masked_fill(outside, junk), target.masked_fill(outside, -junk), mask)
            assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))

    def test_a_voxel_that_is_not_finite_is_masked(self, name):
        loss = make(name, 2).eval()
        pred, target = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)
        pred[..., 3, 4], target[..., 7, 8] = math.nan, math.inf
        mask = (pred + target).isfinite().float()
        for x, y in zip(gradients(loss, pred, target), gradients(loss, pred, target, mask), strict=True):
            assert torch.equal(x, y)

    def test_ones_are_as_good_as_none_and_weights_are_kept_in_range(self, name):
        loss = make(name, 2).eval()
        pred, target = torch.rand(2, 1, 12, 12), torch.rand(2, 1, 12, 12)
        assert torch.equal(loss(pred, target, torch.ones(1, 1, 12, 12, dtype=torch.bool)), loss(pred, target))
        mask = (torch.rand(2, 1, 12, 12) > 0.3).float()
        odd = torch.where(mask > 0, 255.0, math.nan)
        assert torch.equal(loss(pred, target, odd), loss(pred, target, mask))

    @pytest.mark.parametrize("name", ["locor", *NAMES])
    def test_images_without_finite_voxels_give_nan(self, name):
        """As after a training that diverged: 0 would look better than any image."""
        image, ones = torch.rand(2, 2, 1, 9, 9)
        for reduction, (junk, mask) in product(("mean", "sum", "none"), ((math.nan, None), (math.inf, ones.ceil()))):
            loss = ALL[name](2, reduction=reduction)
            bad = torch.full_like(image, junk, requires_grad=True)
            value = loss(bad, image, mask)
            assert value.isnan().all()
            value.sum().backward()
            assert not bad.grad.any()
            some = image.clone()
            some[..., 1:] = junk
            assert loss(some, image, mask).isfinite().all()

    def test_nothing_valid(self, name):
        for reduction in ("mean", "sum", "none"):
            pred = torch.rand(1, 1, 9, 9, requires_grad=True)
            value = make(name, 2, reduction=reduction)(pred, torch.rand(1, 1, 9, 9), torch.zeros(1, 1, 9, 9))
            value.sum().backward()
            assert torch.equal(value, torch.full_like(value, -1.0 if name == "nmi" else 0.0)) or "counting" in name
            assert value.isfinite().all() and not pred.grad.any()

    @pytest.mark.parametrize("name", [n for n in NAMES if "counting" not in n])
    def test_less_overlap_does_not_look_better(self, name):
        """Unrelated noise: the value is that of the part that is left, not pulled down by what is missing."""
        loss = make(name, 3).eval()
        pred, target = torch.rand(1, 1, 24, 24, 24), torch.rand(1, 1, 24, 24, 24)
        mask = torch.zeros(1, 1, 24, 24, 24)
        mask[:, :, :12] = 1
        half = loss(pred[:, :, :12], target[:, :, :12])
        rtol = 0.6 if name == "lncc" else 0.35 if name.startswith("mind") else 0.1
        torch.testing.assert_close(loss(pred, target, mask), half, rtol=rtol, atol=1e-3)

    def test_published_mutual_information_rewards_overlap(self):
        """With `count_masked`, both images are zero outside the mask, which is information as well."""
        pred, target, mask = torch.rand(1, 1, 24, 24), torch.rand(1, 1, 24, 24), torch.ones(1, 1, 24, 24)
        mask[..., :12] = 0
        assert make("mi counting masked", 2)(pred, target, mask) < make("mi", 2)(pred, target, mask) - 0.2

    def test_published_mind_divides_by_all_voxels(self):
        pred, target, mask = torch.rand(1, 1, 24, 24), torch.rand(1, 1, 24, 24), torch.ones(1, 1, 24, 24)
        mask[..., :12] = 0
        ratio = make("mind counting masked", 2)(pred, target, mask) / make("mind", 2)(pred, target, mask)
        torch.testing.assert_close(ratio, torch.tensor(0.5), rtol=1e-3, atol=0)


class TestRange:
    def test_frozen_until_reset(self):
        loss = MutualInformationLoss(2, freeze_range=True)
        pred, target = torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20)
        first = loss(pred, target)
        assert loss(pred / 2, target) != first  # the new range would have undone that
        with pytest.raises(ValueError, match="reset_range"):
            loss(pred.expand(2, 1, -1, -1), target.expand(2, 1, -1, -1))
        loss.reset_range()
        torch.testing.assert_close(loss(pred / 2, target), first)

    @pytest.mark.parametrize("name", ["mi", "cr", "local cr", "srwcr"])
    def test_frozen_ends_are_constants(self, name):
        """The gradient is that of the image brought to [0, 1] beforehand, over the span."""
        pred, target = torch.rand(2, 1, 1, 12, 12, dtype=torch.float64)
        frozen, without = make(name, 2, freeze_range=True, quantile=0).eval(), make(name, 2, rescale=False).eval()
        frozen(pred, target)
        low, span = pred.min(), pred.max() - pred.min()
        found = gradients(frozen, pred, target)
        expected = gradients(without, (pred - low) / span, (target - target.min()) / (target.max() - target.min()))
        torch.testing.assert_close(found[1], expected[1] / span)

    def test_quantile(self):
        """An outlier moves the ends at quantile 0 and not above."""
        pred, target = torch.rand(1, 1, 30, 30), torch.rand(1, 1, 30, 30)
        hot = pred.clone()
        hot[..., 3, 3] = 50
        for quantile, tolerance in ((0.01, 0.02), (0.05, 0.02)):
            loss = MutualInformationLoss(2, quantile=quantile)
            torch.testing.assert_close(loss(hot, target), loss(pred, target), rtol=tolerance, atol=0)
        loss = MutualInformationLoss(2, quantile=0)
        assert loss(hot, hot) > loss(pred, pred) + 1


class TestPrecision:
    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_low_precision_input_is_computed_in_float32(self, name, dtype):
        loss = make(name, 2).eval()
        pred, target = torch.rand(1, 1, 12, 12).to(dtype), torch.rand(1, 1, 12, 12).to(dtype)
        found = gradients(loss, pred, target)
        expected = gradients(loss, pred.float(), target.float())
        assert found[0].dtype == torch.float32 and torch.equal(found[0], expected[0])
        assert found[1].dtype == dtype and torch.equal(found[1], expected[1].to(dtype))

    @pytest.mark.parametrize("name", KINDS)
    def test_float64_stays_float64(self, name):
        found = gradients(make(name, 2), torch.rand(1, 1, 12, 12, dtype=torch.float64), torch.rand(1, 1, 12, 12))
        assert [x.dtype for x in found] == [torch.float64, torch.float64, torch.float32]

    def test_float32_is_accurate(self, name):
        loss = make(name, 3).eval()
        pred, target = torch.rand(2, 1, 1, 12, 13, 14)
        for ours, theirs in zip(gradients(loss, pred, target), gradients(loss, pred.double(), target.double()), strict=True):
            assert (ours - theirs).abs().max() < 2e-3 * theirs.abs().max()

    @pytest.mark.parametrize("name", KINDS)
    def test_autocast_is_kept_out(self, name, device):
        loss = make(name, 3).to(device).eval()
        pred, target = torch.rand(2, 1, 1, 12, 12, 12, device=device)
        expected = gradients(loss, pred, target)
        with torch.autocast(device.type, torch.bfloat16):
            found = gradients(loss, pred, target)
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True)) or device.type == "cuda"
        assert_close(found, expected)

    @pytest.mark.parametrize("name", KINDS)
    def test_deterministic(self, name):
        loss = make(name, 3).eval()
        pred, target = torch.rand(2, 1, 1, 12, 12, 12)
        assert all(torch.equal(x, y) for x, y in zip(gradients(loss, pred, target), gradients(loss, pred, target)))

    def test_the_portions_do_not_matter(self, name, monkeypatch):
        """One slab or chunk, or many."""
        pred, target, mask = (torch.rand(2, 1, 11, 6, 7, dtype=torch.float64) for _ in range(3))
        expected = gradients(make(name, 3).eval(), pred, target, mask)
        monkeypatch.setattr("monai_locor.losses.parzen.PORTION_VOXELS", {"cpu": 37})
        monkeypatch.setattr("monai_locor.losses.streaming.SLAB_BUDGET_MB", {"cpu": 1e-4})
        assert_close(gradients(make(name, 3).eval(), pred, target, mask), expected)


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-7)


class TestSizes:
    def test_tiny_volumes(self, name):
        for shape in ((1,), (1, 5), (1, 1, 1), (2, 1, 7)):
            if name.startswith("mind") and len(shape) == 1:
                continue  # not defined in one dimension
            loss = make(name, len(shape))
            pred, target, mask = torch.rand(3, 1, 1, *shape)
            assert_finite(gradients(loss, pred, target))
            assert_finite(gradients(loss, pred, target, mask.round()))
