# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Properties of all measures: interface, errors, unusual images, better values for aligned images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from monai_locor.losses import (
    CorrelationRatioLoss,
    LocalNCCLoss,
    LocalParzenCRLoss,
    MINDSSCLoss,
    MutualInformationLoss,
    SRWCRLoss,
)

from .test_local_cr_robustness import IMAGES, gradients

Make = Callable[..., nn.Module]

# factory, lowest and highest value
MEASURES: dict[str, tuple[Make, float, float]] = {
    "mi": (MutualInformationLoss, -math.log(23), 0.0),
    "mi spline": (lambda *a, **k: MutualInformationLoss(*a, kernel_type="spline", **k), -math.log(23), 0.0),
    "nmi": (lambda *a, **k: MutualInformationLoss(*a, form="normalized", **k), -2.0, -1.0),
    "mi counting masked": (lambda *a, **k: MutualInformationLoss(*a, count_masked=True, **k), -math.log(23), 0.0),
    "cr": (CorrelationRatioLoss, 0.0, 1.0),
    "local cr": (LocalParzenCRLoss, 0.0, 1.0),
    "local cr spline": (lambda *a, **k: LocalParzenCRLoss(*a, kernel_type="spline", **k), 0.0, 1.0),
    "patches": (lambda *a, **k: LocalParzenCRLoss(*a, num_patches=20, patch_size=5, **k), 0.0, 1.0),
    "srwcr": (SRWCRLoss, 0.0, 1.0),
    "lncc": (LocalNCCLoss, -1.0, 0.0),
    "lncc gaussian": (lambda *a, **k: LocalNCCLoss(*a, kernel_type="gaussian", stride=2, **k), -1.0, 0.0),
    "mind": (MINDSSCLoss, 0.0, 1.0),
    "mind counting masked": (lambda *a, **k: MINDSSCLoss(*a, count_masked=True, **k), 0.0, 1.0),
}
NAMES = list(MEASURES)
KINDS = ["mi", "cr", "local cr", "patches", "srwcr", "lncc", "mind"]  # one of each class, and sampled patches
LOCAL = ["local cr", "patches", "lncc gaussian"]  # with something random in training


def make(name: str, *args: Any, **options: Any) -> nn.Module:
    return MEASURES[name][0](*args, **options)


def blobs(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Smooth noise in [0, 1]."""
    noise = torch.rand(1, 1, *shape, dtype=dtype)
    for axis in range(2, noise.ndim):
        noise = noise + noise.roll(1, axis) + noise.roll(-1, axis)
    return (noise - noise.min()) / (noise.max() - noise.min())


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


class TestInterface:
    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("shape", [(16,), (16, 12), (16, 12, 9)])
    def test_smoke(self, name, shape, device):
        if name.startswith("mind") and len(shape) == 1:
            pytest.skip("not defined in one dimension")
        pred = torch.rand(2, 2, *shape, device=device, requires_grad=True)
        target = torch.rand(2, 2, *shape, device=device, requires_grad=True)
        value = make(name, len(shape)).to(device)(pred=pred, target=target)
        assert value.shape == () and value.dtype == torch.float32 and value.device.type == device.type
        value.backward()
        assert pred.grad.abs().max() > 0 and target.grad.abs().max() > 0

    @pytest.mark.parametrize("name", KINDS)
    def test_default_is_three_dimensional(self, name):
        loss = make(name)
        assert loss.spatial_dims == 3 and loss(torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)).shape == ()
        assert list(loss.parameters()) == [] and loss.state_dict() == {}

    def test_reductions_agree(self, name):
        pred, target = torch.rand(2, 3, 9, 9), torch.rand(2, 3, 9, 9)
        total, mean, values = (make(name, 2, reduction=r).eval()(pred, target) for r in ("sum", "mean", "none"))
        assert values.shape[:2] == (2, 3)
        torch.testing.assert_close(total, values.sum())
        torch.testing.assert_close(mean, values.mean())

    def test_items_and_channels_are_independent(self, name):
        shape = (5, 6, 7)
        loss = make(name, 3).eval()
        pred, target, mask = torch.rand(2, 2, *shape, requires_grad=True), torch.rand(2, 2, *shape), torch.rand(2, 1, *shape)
        mask[1, :, 4:] = 0
        (together,) = torch.autograd.grad(loss(pred, target, mask) * 4, pred)
        alone = [
            torch.autograd.grad(loss(pred[i : i + 1, c : c + 1], target[i : i + 1, c : c + 1], mask[i : i + 1]), pred)[0]
            for i, c in itertools.product(range(2), repeat=2)
        ]
        torch.testing.assert_close(together, sum(alone), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("name", KINDS)
    def test_meta_tensor_in_plain_tensor_out(self, name):
        pred = MetaTensor(torch.rand(1, 1, 9, 9), affine=2 * torch.eye(4)).requires_grad_()
        value = make(name, 2)(pred, MetaTensor(torch.rand(1, 1, 9, 9)), MetaTensor(torch.ones(1, 1, 9, 9)))
        assert type(value) is torch.Tensor
        value.backward()
        assert pred.grad.abs().max() > 0

    @pytest.mark.parametrize("name", KINDS)
    def test_no_gradient_is_asked_for(self, name):
        with torch.no_grad():
            assert not make(name, 2)(torch.rand(1, 1, 9, 9), torch.rand(1, 1, 9, 9)).requires_grad

    def test_only_the_gradient_that_is_asked_for(self, name):
        pred, target = torch.rand(1, 1, 9, 9, requires_grad=True), torch.rand(1, 1, 9, 9, requires_grad=True)
        loss = make(name, 2).eval()
        both = torch.autograd.grad(loss(pred, target), (pred, target))
        assert torch.equal(torch.autograd.grad(loss(pred, target.detach()), pred)[0], both[0])
        assert torch.equal(torch.autograd.grad(loss(pred.detach(), target), target)[0], both[1])

    @pytest.mark.parametrize("name", LOCAL)
    def test_train_is_random_and_reproducible_eval_is_fixed(self, name):
        generator = torch.Generator().manual_seed(5)
        loss = make(name, 2, generator=generator)
        pred, target = torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20)
        state = torch.get_rng_state()
        first, second = loss(pred, target), loss(pred, target)
        generator.manual_seed(5)
        assert first != second and loss(pred, target) == first and loss(pred, target) == second
        loss.eval()
        assert loss(pred, target) == loss(pred, target)
        assert torch.equal(torch.get_rng_state(), state)

    def test_nothing_comes_back_to_the_host(self, name):
        """On a GPU each of these operations would wait for all work in progress, in every step of a registration."""

        class NoSynchronization(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "aten.equal")
                assert not any(word in str(func) for word in forbidden), func
                return func(*args, **(kwargs or {}))

        loss = make(name, 3)
        pred, target, mask = (torch.rand(2, 1, 7, 8, 9) for _ in range(3))
        pred.requires_grad_()
        with NoSynchronization():
            loss(pred, target, mask.round()).backward()
        assert pred.grad.abs().max() > 0


class TestErrors:
    OPTIONS = [  # several values where a check is written, one where it is called
        *(("mi", {"spatial_dims": x}) for x in (0, 4, None, "3")),
        *((name, {"spatial_dims": 4}) for name in KINDS[1:]),
        *(("mi", {"reduction": x}) for x in ("unknown", None)),
        *((name, {"reduction": "unknown"}) for name in KINDS[1:]),
        *(("mi", {"num_bins": x}) for x in (1, 0, -3, 2.5, True)),
        *((name, {"num_bins": 1}) for name in ("cr", "srwcr", "local cr")),
        *(("mi", {"quantile": x}) for x in (-0.1, 0.5, math.nan)),
        *((name, {"quantile": 0.5}) for name in ("cr", "srwcr", "local cr")),
        *(("mi", {"eps": x}) for x in (0, -1, math.nan)),
        *((name, {"eps": 0}) for name in ("cr", "srwcr", "local cr", "lncc")),
        *((name, {"kernel_type": "parabola"}) for name in ("mi", "cr", "local cr", "lncc")),
        ("mi", {"kernel_type": None}),
        *(("mi", {"sigma_ratio": x}) for x in (0, 0.01, math.inf)),
        *((name, {"sigma_ratio": 0}) for name in ("cr", "local cr")),
        *((name, {"min_mass": x}) for name in ("local cr", "lncc") for x in (0, 1.5)),
        *((name, {"memory_budget_mb": x}) for name, x in (("local cr", 0), ("local cr", -1), ("lncc", 0), ("srwcr", 0))),
        *(("local cr", {x: 0}) for x in ("kernel_sigma", "stride", "truncated", "num_patches", "patch_size")),
        *(("local cr", {x: (1, 2)}) for x in ("kernel_sigma", "stride", "patch_size")),
        *(("lncc", {"kernel_size": x}) for x in (0, -3, 4)),
        *(("srwcr", {"spacing": x}) for x in (0, -1, 2.5)),
        *(("mind", {"spatial_dims": 1}), ("mi", {"form": "log"})),
        *(("mind", {x: y}) for x, y in (("radius", -1), ("radius", 1.5), ("dilation", 0), ("dilation", 1.5))),
    ]

    @pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
    def test_bad_option(self, name, options):
        told = rf"{'|'.join(options)}|Unsupported option|not a valid|must have length|number of basis functions"
        with pytest.raises(ValueError, match=told):
            make(name, **options)

    SHAPES = {
        "too few axes": ((1, 1, 9), (1, 1, 9), None),
        "too many axes": ((1, 1, 9, 9, 9), (1, 1, 9, 9, 9), None),
        "channels": ((1, 2, 9, 9), (1, 1, 9, 9), None),
        "batch": ((1, 1, 9, 9), (2, 1, 9, 9), None),
        "spatial size": ((1, 1, 9, 9), (1, 1, 9, 8), None),
        "empty image": ((1, 1, 0, 9), (1, 1, 0, 9), None),
        "empty batch": ((0, 1, 9, 9), (0, 1, 9, 9), None),
        "axes of mask": ((1, 1, 9, 9), (1, 1, 9, 9), (9, 9)),
        "channels of mask": ((1, 2, 9, 9), (1, 2, 9, 9), (1, 2, 9, 9)),
        "batch of mask": ((3, 1, 9, 9), (3, 1, 9, 9), (2, 1, 9, 9)),
        "size of mask": ((1, 1, 9, 9), (1, 1, 9, 9), (1, 1, 9, 1)),
    }

    @pytest.mark.parametrize(("pred", "target", "mask"), SHAPES.values(), ids=SHAPES.keys())
    def test_bad_shape(self, pred, target, mask):
        with pytest.raises(ValueError, match="must"):
            MutualInformationLoss(2)(torch.rand(pred), torch.rand(target), None if mask is None else torch.rand(mask))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
    def test_only_floating_point(self, dtype):
        image = torch.rand(1, 1, 9, 9)
        for pair in ((image.to(dtype), image), (image, image.to(dtype))):
            with pytest.raises(ValueError, match=str(dtype)):
                MINDSSCLoss(2)(*pair)

    @pytest.mark.parametrize("name", KINDS)
    def test_reduction_changed_to_nonsense(self, name):
        loss = make(name, 2)
        loss.reduction = "median"
        with pytest.raises(ValueError, match="median"):
            loss(torch.rand(1, 1, 9, 9), torch.rand(1, 1, 9, 9))


class TestIntensities:
    def test_value_and_gradients_are_finite(self, name):
        loss, low, high = make(name, 3), *MEASURES[name][1:]
        for kind in IMAGES if name in KINDS else ("constant", "denormal", "hot voxel", "sparse", "nan"):
            plain, odd = torch.rand(2, 1, 7, 6, 5), IMAGES[kind](torch.rand(2, 1, 7, 6, 5))
            for pair in ((odd, plain), (plain, odd), (odd, odd)):
                found = gradients(loss, *pair)
                assert all(bool(x.isfinite().all()) for x in found), kind
                assert low - 1e-3 <= found[0] <= high + 1e-3, kind

    def test_an_aligned_pair_scores_better_than_a_shifted_one(self, name):
        loss = make(name, 3).eval()
        for kind in ("offset 1e4", "tiny", "negative"):
            image = IMAGES[kind](blobs(14, 14, 14))
            aligned = loss(image, image)
            assert all(loss(image.roll(2, axis), image) > aligned + 0.02 for axis in (2, 3, 4)), kind

    def test_an_affine_change_of_intensity_changes_nothing(self, name):
        loss = make(name, 2).eval()
        pred, target = torch.rand(2, 1, 1, 20, 20, dtype=torch.float64)
        expected = loss(pred, target)
        for slope, offset in ((1e-3, 0.0), (2000.0, -1000.0), (1.0, 1e4)):
            torch.testing.assert_close(loss(slope * pred + offset, target), expected, rtol=1e-8, atol=0)
            torch.testing.assert_close(loss(pred, slope * target + offset), expected, rtol=1e-8, atol=0)

    def test_the_order_of_the_axes_does_not_matter(self, name):
        if name == "patches":
            pytest.skip("the patches lie elsewhere")
        pred, target, mask = (torch.rand(1, 1, 7, 8, 9, dtype=torch.float64) for _ in range(3))
        loss = make(name, 3).eval()
        expected = loss(pred, target, mask)
        for order, flips in itertools.product([(0, 1, 2), (1, 2, 0), (2, 1, 0)], [(), (2,), (3, 4)]):
            found = loss(*(x.permute(0, 1, *(i + 2 for i in order)).flip(flips) for x in (pred, target, mask)))
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
