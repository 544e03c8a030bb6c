# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""LocalLearnedBasisCRLoss on the images that break losses: masks, outliers, offsets, precision, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss

from monai_locor.losses import LocalLearnedBasisCRLoss

IMAGES = {
    "constant": lambda x: torch.full_like(x, 0.3),
    "zero": torch.zeros_like,
    "large constant": lambda x: torch.full_like(x, 1e30),
    "offset 1e4": lambda x: 10 * x + 1e4,
    "tiny": lambda x: 1e-6 * x,
    "denormal": lambda x: 1e-40 * x,
    "negative": lambda x: -x - 5,
    "huge": lambda x: 1e30 * (x - 0.5),
    "nearly the range of float32": lambda x: (x - 0.5) * 3e38,
    "hot voxel": lambda x: x.flatten(2).index_fill(2, torch.tensor([40]), 1e4).view_as(x),
    "sparse": lambda x: x.flatten(2).index_fill(2, torch.arange(x[0, 0].numel() - 2), 0).view_as(x),
    "nan": lambda x: x.flatten(2).index_fill(2, torch.tensor([3, 40, 41]), math.nan).view_as(x),
    "infinite": lambda x: x.flatten(2).index_fill(2, torch.tensor([3, 40]), math.inf).view_as(x),
    "binary": lambda x: (x > 0.5).to(x.dtype),
}


def gradients(loss: torch.nn.Module, *inputs: torch.Tensor | None) -> list[torch.Tensor]:
    """Value, gradients of pred and target, gradients of the parameters."""
    pred, target, *rest = inputs
    pred, target = pred.detach().requires_grad_(), target.detach().requires_grad_()
    value = loss(pred, target, *rest)
    return [value.detach(), *torch.autograd.grad(value, [pred, target, *loss.parameters()])]


@pytest.fixture
def full_precision_after() -> Iterator[None]:
    """Undo what a test does to torch's process-wide settings, old interface and new."""
    yield
    mkldnn = torch.backends.mkldnn
    for owner in (torch.backends.cuda.matmul, mkldnn, getattr(mkldnn, "matmul", None)):  # the last since torch 2.9
        if hasattr(owner, "fp32_precision"):
            owner.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


def assert_finite(tensors: list[torch.Tensor]) -> None:
    assert all(bool(x.isfinite().all()) for x in tensors)


class TestIntensities:
    @pytest.mark.parametrize(("basis", "form"), [("learned", "log"), ("polynomial", "normalized")])
    @pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
    def test_value_and_gradients_are_finite(self, image, basis, form):
        loss = LocalLearnedBasisCRLoss(3, basis=basis, form=form)
        plain = torch.rand(2, 1, 9, 8, 7)
        odd = image(torch.rand(2, 1, 9, 8, 7))
        for pair in ((odd, plain), (plain, odd), (odd, odd)):
            found = gradients(loss, *pair)
            assert_finite(found)
            low, high = (math.log(loss.eps) - 1e-3, 6) if form == "log" else (0, 1 + 1e-5)
            assert low <= found[0] <= high

    @pytest.mark.parametrize("image", ["offset 1e4", "tiny", "negative"])
    def test_an_aligned_pair_still_scores_better_than_a_shifted_one(self, image):
        loss = LocalLearnedBasisCRLoss(3, basis="polynomial").eval()
        pred = torch.rand(1, 1, 12, 12, 12)
        target = IMAGES[image](pred.square())
        assert loss(IMAGES[image](pred), target) < loss(IMAGES[image](pred).roll(1, 2), target) - 1

    def test_where_lncc_breaks(self):
        """The same image with an offset: the cancellation that this loss has to avoid is real."""
        image = 10 * torch.rand(1, 1, 12, 12, 12) + 1e4
        assert LocalNormalizedCrossCorrelationLoss()(image, image) < -2  # its range is [-1, 0]
        loss = LocalLearnedBasisCRLoss(basis="polynomial", form="normalized", ridge=1e-6).eval()
        assert 0 <= loss(image, image) < 0.02

    def test_a_hot_voxel_changes_nothing_far_away(self):
        loss = LocalLearnedBasisCRLoss(3, reduction="none").eval()
        pred, target = torch.rand(1, 1, 20, 20, 20), torch.rand(1, 1, 20, 20, 20)
        hot = pred.clone()
        hot[..., 10, 10, 10] = 1e4
        difference = (loss(hot, target) - loss(pred, target)).abs()
        difference[..., 2:5, 2:5, 2:5] = 0
        assert difference.max() < 0.02

    def test_a_small_structure_in_a_large_image_is_not_missed(self):
        """Smaller than the distance of the voxels from which the intensity range is read."""
        pred = torch.zeros(1, 1, 640, 640)
        pred[..., 1:4, 1:5] = torch.rand(3, 4)
        found = gradients(LocalLearnedBasisCRLoss(2).eval(), pred, pred)
        assert found[1].abs().max() > 0

    def test_a_small_mask_in_a_large_image_is_not_missed(self):
        mask = torch.zeros(1, 1, 640, 640)
        mask[..., 1:4, 1:5] = 1
        pred, target = torch.rand(1, 1, 640, 640), torch.rand(1, 1, 640, 640)
        assert gradients(LocalLearnedBasisCRLoss(2).eval(), pred, target, mask)[1].abs().max() > 0


class TestMask:
    @pytest.mark.parametrize("rescale", [True, False])
    @pytest.mark.parametrize("form", ["log", "normalized", "robust"])
    def test_voxels_outside_have_no_influence_and_no_gradient(self, form, rescale):
        loss = LocalLearnedBasisCRLoss(3, form=form, rescale=rescale).eval()
        pred, target = torch.rand(2, 1, 9, 10, 11), torch.rand(2, 1, 9, 10, 11)
        mask = (torch.rand(2, 1, 9, 10, 11) > 0.4).float()
        expected = gradients(loss, pred, target, mask)
        outside = mask == 0
        assert not expected[1][outside].any() and not expected[2][outside].any()
        for junk in [1e9, -3.0] + [math.nan, math.inf] * rescale:
            found = gradients(loss, pred.masked_fill(outside, junk), target.masked_fill(outside, -junk), mask)
            assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))

    def test_a_voxel_that_is_not_finite_is_masked(self):
        loss = LocalLearnedBasisCRLoss(2).eval()
        pred, target = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)
        pred[..., 3, 4], target[..., 7, 8] = math.nan, math.inf
        mask = (pred + target).isfinite().float()
        for x, y in zip(gradients(loss, pred, target), gradients(loss, pred, target, mask), strict=True):
            assert torch.equal(x, y)

    def test_ones_are_as_good_as_none(self):
        loss = LocalLearnedBasisCRLoss(2).eval()
        pred, target = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)
        expected = gradients(loss, pred.double(), target.double())
        for mask in (torch.ones(1, 1, 12, 12), torch.ones(1, 1, 12, 12, dtype=torch.bool)):
            for x, y in zip(gradients(loss, pred.double(), target.double(), mask), expected, strict=True):
                torch.testing.assert_close(x, y)

    def test_weights_are_kept_in_range(self):
        loss = LocalLearnedBasisCRLoss(2).eval()
        pred, target = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)
        mask = (torch.rand(1, 1, 12, 12) > 0.3).float()
        odd = torch.where(mask > 0, 255.0, -1.0)
        odd[mask == 0] = math.nan
        assert torch.equal(loss(pred, target, odd), loss(pred, target, mask))
        assert torch.equal(loss(pred, target, (255 * mask).byte()), loss(pred, target, mask))

    @pytest.mark.parametrize("form", ["log", "normalized"])
    def test_less_overlap_does_not_look_better(self, form):
        """Unrelated noise: the value is that of the windows that are left, not pulled down by the empty ones."""
        loss = LocalLearnedBasisCRLoss(3, form=form, basis="polynomial").eval()
        pred, target = torch.rand(1, 1, 24, 24, 24), torch.rand(1, 1, 24, 24, 24)
        full = loss(pred, target)
        for share in (12, 6):
            mask = torch.zeros(1, 1, 24, 24, 24)
            mask[:, :, :share] = 1
            torch.testing.assert_close(loss(pred, target, mask), full, rtol=0.1, atol=0)

    def test_which_windows_count(self):
        loss = LocalLearnedBasisCRLoss(1, kernel_sigma=0.8, stride=3, reduction="none", min_mass=0.25).eval()
        mask = torch.zeros(1, 1, 30)
        mask[..., :10] = 1
        counted = loss(torch.rand(1, 1, 30), torch.rand(1, 1, 30), mask)[0, 0] != 0
        assert counted.tolist() == [True] * 3 + [True] + [False] * 6  # centers 1, 4, 7, 10 (mass 0.29), 13, ...

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("form", ["log", "normalized", "robust"])
    def test_nothing_valid(self, form, reduction):
        loss = LocalLearnedBasisCRLoss(2, form=form, reduction=reduction)
        pred = torch.rand(1, 1, 9, 9, requires_grad=True)
        value = loss(pred, torch.rand(1, 1, 9, 9), torch.zeros(1, 1, 9, 9))
        value.sum().backward()
        assert not value.any() and not pred.grad.any() and not any(p.grad.any() for p in loss.parameters())

    def test_an_item_without_overlap_leaves_the_others_alone(self):
        loss = LocalLearnedBasisCRLoss(2).eval()
        pred, target, mask = torch.rand(2, 1, 9, 9), torch.rand(2, 1, 9, 9), torch.ones(2, 1, 9, 9)
        mask[1] = 0
        found = gradients(loss, pred, target, mask)
        torch.testing.assert_close(found[0], loss(pred[:1], target[:1]) / 2)
        assert not found[1][1].any()


class TestPrecision:
    @pytest.mark.parametrize(("dtype", "other"), [(torch.float16, torch.float16), (torch.bfloat16, torch.float32)], ids=str)
    def test_low_precision_input_is_computed_in_float32(self, dtype, other):
        loss = LocalLearnedBasisCRLoss(2).eval()
        pred, target = torch.rand(1, 1, 12, 12).to(dtype), torch.rand(1, 1, 12, 12).to(other)
        found = gradients(loss, pred, target)
        expected = gradients(loss, pred.float(), target.float())
        assert found[0].dtype == torch.float32 and torch.equal(found[0], expected[0])
        assert found[1].dtype == dtype and torch.equal(found[1], expected[1].to(dtype))
        assert found[2].dtype == other

    @pytest.mark.parametrize("pair", [(torch.float64, torch.float64), (torch.float32, torch.float64)])
    def test_float64_stays_float64_whatever_the_basis(self, pair):
        loss = LocalLearnedBasisCRLoss(2).eval()
        found = gradients(loss, torch.rand(1, 1, 12, 12, dtype=pair[0]), torch.rand(1, 1, 12, 12, dtype=pair[1]))
        assert [x.dtype for x in found[:3]] == [torch.float64, *pair]
        assert all(x.dtype == torch.float32 for x in found[3:])

    def test_a_basis_in_half_precision(self):
        loss = LocalLearnedBasisCRLoss(2).half().eval()
        found = gradients(loss, torch.rand(1, 1, 12, 12).half(), torch.rand(1, 1, 12, 12).half())
        assert found[0].dtype == torch.float32
        assert_finite(found)

    @pytest.mark.parametrize("form", ["log", "normalized", "robust"])
    def test_float32_is_accurate(self, form):
        loss = LocalLearnedBasisCRLoss(3, form=form).eval()
        pred = torch.rand(1, 1, 15, 15, 15)
        found = gradients(loss, pred, pred.square())
        for ours, theirs in zip(found, gradients(loss.double(), pred.double(), pred.double().square()), strict=True):
            assert (ours - theirs).abs().max() < 2e-3 * theirs.abs().max()

    def test_autocast_is_kept_out(self, device):
        loss = LocalLearnedBasisCRLoss(3).to(device).eval()
        pred, target = torch.rand(1, 1, 12, 12, 12, device=device), torch.rand(1, 1, 12, 12, 12, device=device)
        expected = gradients(loss, pred, target)
        with torch.autocast(device.type, torch.bfloat16):
            found = gradients(loss, pred, target)
            assert (torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).dtype == torch.bfloat16
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))

    @pytest.mark.parametrize(
        ("owner", "name", "value"),
        [
            (torch.backends.cuda.matmul, "allow_tf32", True),
            (torch.backends.cuda.matmul, "fp32_precision", "tf32"),
            (torch.backends.mkldnn, "fp32_precision", "bf16"),
            (None, None, "high"),
            (None, None, "medium"),
        ],
        ids=["allow_tf32", "cuda", "mkldnn", "high", "medium"],
    )
    def test_fast_matrix_products_are_kept_out_and_stay_switched_on(self, owner, name, value, device, full_precision_after):
        """The line `torch.set_float32_matmul_precision("medium")` means bfloat16 on processors that have it."""
        if owner is not None and not hasattr(owner, name):
            pytest.skip("not in this version of torch")
        loss = LocalLearnedBasisCRLoss(3).to(device).eval()
        pred, target = torch.rand(1, 1, 20, 20, 20, device=device), torch.rand(1, 1, 20, 20, 20, device=device)
        expected = gradients(loss, pred, target)
        _ = torch.set_float32_matmul_precision(value) if owner is None else setattr(owner, name, value)
        found = gradients(loss, pred, target)
        assert (torch.get_float32_matmul_precision() if owner is None else getattr(owner, name)) == value
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))

    def test_deterministic(self, device):
        loss = LocalLearnedBasisCRLoss(3).to(device).eval()
        pred, target = torch.rand(1, 1, 12, 12, 12, device=device), torch.rand(1, 1, 12, 12, 12, device=device)
        first, second = gradients(loss, pred, target), gradients(loss, pred, target)
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


class TestSizes:
    @pytest.mark.parametrize("shape", [(1,), (2,), (1, 1), (1, 5), (1, 1, 1), (2, 1, 7), (3, 3, 3)])
    @pytest.mark.parametrize("form", ["log", "normalized", "robust"])
    def test_tiny_volumes(self, shape, form):
        loss = LocalLearnedBasisCRLoss(len(shape), form=form)
        assert_finite(gradients(loss, torch.rand(1, 1, *shape), torch.rand(1, 1, *shape)))

    @pytest.mark.parametrize("sigma", [0.01, 0.3, 20.0])
    @pytest.mark.parametrize("stride", [0.5, 3, 50])
    def test_no_window_is_empty(self, sigma, stride):
        """An empty window would fit perfectly. Constant 1 against a basis that is zero leaves a residual of exactly 1."""
        loss = LocalLearnedBasisCRLoss(
            2, basis=torch.nn.Conv2d(1, 2, 1), kernel_sigma=sigma, stride=stride, rescale=False, reduction="none"
        )
        torch.nn.init.zeros_(loss.basis.bias)
        for _ in range(5):
            value = loss(torch.zeros(1, 1, 7, 61), torch.ones(1, 1, 7, 61))
            torch.testing.assert_close(value, torch.full_like(value, math.log(1 + loss.eps)))
