# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""LocalLearnedBasisCRLoss: interface, randomness, and what the number means."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.utils import LossReduction
from torch import nn

from monai_locor.losses import LocalLearnedBasisCRLoss


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(1, 1, *shape, dtype=dtype)


def learn(loss: nn.Module, pred: torch.Tensor, target: torch.Tensor) -> None:
    """Train the basis alone."""
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss(pred, target).backward()
        optimizer.step()


class TestInterface:
    @pytest.mark.parametrize("shape", [(16,), (16, 12), (16, 12, 9)])
    def test_smoke(self, shape, device):
        loss = LocalLearnedBasisCRLoss(len(shape), 2).to(device)
        pred = torch.rand(2, 2, *shape, device=device, requires_grad=True)
        value = loss(pred, torch.rand(2, 1, *shape, device=device))
        assert value.shape == () and value.dtype == torch.float32 and value.device.type == device.type
        value.backward()
        assert pred.grad is not None and pred.grad.abs().max() > 0
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in loss.parameters())

    def test_default_is_three_dimensional_with_one_channel(self):
        assert LocalLearnedBasisCRLoss()(pred=noise(8, 8, 8), target=noise(8, 8, 8)).shape == ()

    @pytest.mark.parametrize(("batch", "channels"), [(1, 5), (3, 1)])
    @pytest.mark.parametrize(
        ("shape", "windows"), [((16,), (6,)), ((4, 9), (4, 4)), ((1, 7, 12), (1, 4, 4)), ((3, 12, 13), (3, 4, 5))]
    )
    def test_cardinality(self, shape, windows, batch, channels):
        loss = LocalLearnedBasisCRLoss(len(shape), 2, reduction="none")
        assert loss(torch.rand(batch, 2, *shape), torch.rand(batch, channels, *shape)).shape == (batch, channels, *windows)

    def test_reductions_agree(self):
        pred, target = torch.rand(2, 1, 9, 9), torch.rand(2, 3, 9, 9)
        total, mean, values = (LocalLearnedBasisCRLoss(2, reduction=r).eval() for r in ("sum", LossReduction.MEAN, "none"))
        for other in (total, mean):
            other.load_state_dict(values.state_dict())
        expected = values(pred, target)
        torch.testing.assert_close(total(pred, target), expected.sum())
        torch.testing.assert_close(mean(pred, target), expected.mean())

    def test_the_parameters_are_those_of_the_basis(self):
        own = nn.Conv2d(2, 4, 1)
        assert list(LocalLearnedBasisCRLoss(2, 2, basis=own).parameters()) == list(own.parameters())
        assert list(LocalLearnedBasisCRLoss(2, 2, basis="polynomial").parameters()) == []
        learned = LocalLearnedBasisCRLoss(2, 2, num_basis=3, hidden_channels=(7,))
        assert [tuple(p.shape) for p in learned.parameters()] == [(7, 2), (7,), (3, 7), (3,)]

    @pytest.mark.parametrize("training", [True, False])
    def test_meta_tensor_in_plain_tensor_out(self, training):
        loss = LocalLearnedBasisCRLoss(2).train(training)
        pred = MetaTensor(noise(9, 9), affine=2 * torch.eye(4)).requires_grad_()
        value = loss(pred, MetaTensor(noise(9, 9)), MetaTensor(torch.ones(1, 1, 9, 9)))
        assert type(value) is torch.Tensor
        value.backward()
        assert pred.grad.abs().max() > 0

    @pytest.mark.parametrize("form", ["log", "normalized", "robust"])
    def test_items_of_a_batch_are_independent(self, form):
        loss = LocalLearnedBasisCRLoss(2, 2, form=form).eval()
        pred, target = torch.rand(3, 2, 10, 11, requires_grad=True), torch.rand(3, 1, 10, 11)
        mask = torch.rand(3, 1, 10, 11)
        mask[1, :, 4:] = 0
        (together,) = torch.autograd.grad(loss(pred, target, mask) * 3, pred)
        alone = [torch.autograd.grad(loss(*(x[i : i + 1] for x in (pred, target, mask))), pred)[0] for i in range(3)]
        torch.testing.assert_close(together, sum(alone))

    def test_no_gradient_is_asked_for(self):
        with torch.no_grad():
            assert not LocalLearnedBasisCRLoss(2)(noise(9, 9), noise(9, 9)).requires_grad


class TestErrors:
    OPTIONS = [
        *({"spatial_dims": x} for x in (0, 4, None, "3")),
        *({"in_channels": x} for x in (0, -1)),
        *({"ridge": x} for x in (0, -1, math.nan, math.inf)),
        *({name: x} for name in ("eps", "truncated", "memory_budget_mb") for x in (0, math.inf)),
        *({name: x} for name in ("kernel_sigma", "stride") for x in (0, math.inf, (1, 2), (1, 1, -1))),
        *({"min_mass": x} for x in (0, -0.5, 1.5, math.nan)),
        *({"basis": x} for x in ("spline", None, 3)),
        *({"form": x} for x in ("linear", None)),
        *({"reduction": x} for x in ("unknown", None)),
        {"num_basis": 0},
        {"hidden_channels": (16, 0)},
        {"basis": "polynomial", "degree": -1},
    ]

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_bad_option(self, options):
        told = rf"{'|'.join(options)}|Unsupported option|not a valid|must have length|number of basis functions"
        with pytest.raises(ValueError, match=told):
            LocalLearnedBasisCRLoss(**options)

    SHAPES = {
        "too few axes": ((1, 1, 9), (1, 1, 9), None),
        "too many axes": ((1, 1, 9, 9, 9), (1, 1, 9, 9, 9), None),
        "channels of pred": ((1, 2, 9, 9), (1, 1, 9, 9), None),
        "batch": ((1, 1, 9, 9), (2, 1, 9, 9), None),
        "spatial size": ((1, 1, 9, 9), (1, 1, 9, 8), None),
        "axes of target": ((1, 1, 9, 9), (1, 1, 9), None),
        "empty image": ((1, 1, 0, 9), (1, 1, 0, 9), None),
        "empty batch": ((0, 1, 9, 9), (0, 1, 9, 9), None),
        "target without channels": ((1, 1, 9, 9), (1, 0, 9, 9), None),
        "axes of mask": ((1, 1, 9, 9), (1, 1, 9, 9), (9, 9)),
        "channels of mask": ((1, 1, 9, 9), (1, 1, 9, 9), (1, 2, 9, 9)),
        "batch of mask": ((3, 1, 9, 9), (3, 1, 9, 9), (2, 1, 9, 9)),
        "size of mask": ((1, 1, 9, 9), (1, 1, 9, 9), (1, 1, 9, 1)),
    }

    @pytest.mark.parametrize(("pred", "target", "mask"), SHAPES.values(), ids=SHAPES.keys())
    def test_bad_shape(self, pred, target, mask):
        with pytest.raises(ValueError, match="must"):
            LocalLearnedBasisCRLoss(2)(torch.rand(pred), torch.rand(target), None if mask is None else torch.rand(mask))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool, torch.complex64])
    def test_only_floating_point(self, dtype):
        image = noise(9, 9)
        for pair in ((image.to(dtype), image), (image, image.to(dtype))):
            with pytest.raises(ValueError, match=str(dtype)):
                LocalLearnedBasisCRLoss(2)(*pair)

    def test_reduction_changed_to_nonsense(self):
        loss = LocalLearnedBasisCRLoss(2)
        loss.reduction = "median"
        with pytest.raises(ValueError, match="median"):
            loss(noise(9, 9), noise(9, 9))


class TestShift:
    def test_train_is_random_and_reproducible_from_the_global_seed(self):
        loss, pred, target = LocalLearnedBasisCRLoss(2), noise(20, 20), noise(20, 20)
        torch.manual_seed(1)
        first, second = loss(pred, target), loss(pred, target)
        torch.manual_seed(1)
        assert first != second and loss(pred, target) == first and loss(pred, target) == second

    def test_a_generator_leaves_the_global_state_alone(self):
        generator = torch.Generator().manual_seed(5)
        loss, pred, target = LocalLearnedBasisCRLoss(2, generator=generator), noise(20, 20), noise(20, 20)
        state = torch.get_rng_state()
        first, second = loss(pred, target), loss(pred, target)
        generator.manual_seed(5)
        assert first != second and loss(pred, target) == first and loss(pred, target) == second
        assert torch.equal(torch.get_rng_state(), state)

    def test_eval_is_fixed_and_draws_nothing(self):
        loss, pred, target = LocalLearnedBasisCRLoss(2).eval(), noise(20, 20), noise(20, 20)
        state = torch.get_rng_state()
        assert loss(pred, target) == loss(pred, target)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.slow
    def test_over_many_calls_all_voxels_count_equally(self):
        """The summed gradient of the target's energy: with a basis that explains nothing, R is the window mean of t^2."""
        loss = LocalLearnedBasisCRLoss(1, basis="polynomial", degree=0, ridge=1e9, eps=1e9, reduction="sum", rescale=False)
        target = torch.ones(1, 1, 40, requires_grad=True)
        for _ in range(400):
            loss(torch.zeros(1, 1, 40), target).backward()
        interior = target.grad.flatten()[3:-3]
        assert interior.std() < 0.05 * interior.mean()


class TestMeaning:
    @pytest.mark.parametrize("basis", ["learned", "polynomial"])
    def test_identical_images_are_near_the_minimum(self, basis):
        loss = LocalLearnedBasisCRLoss(3, basis=basis).eval()
        image = noise(15, 15, 15)
        shuffled = image.flatten()[torch.randperm(image.numel())].view_as(image)
        if basis == "learned":
            learn(loss, image, image)
        same, other = loss(image, image), loss(shuffled, image)
        assert math.log(loss.eps) - 1e-3 <= same < math.log(loss.eps) + 0.5
        assert other > same + 3

    def test_normalized_form_runs_from_zero_to_one(self):
        loss = LocalLearnedBasisCRLoss(3, form="normalized", basis="polynomial", ridge=1e-6, reduction="none").eval()
        image, other = noise(15, 15, 15), noise(15, 15, 15)
        same, different = loss(image, image), loss(other, image)
        assert same.min() >= 0 and same.mean() < 0.01
        assert different.max() <= 1 and different.mean() > 0.5

    @pytest.mark.parametrize("relation", [torch.square, lambda x: -x, lambda x: (6 * x).sin(), lambda x: (x - 0.5).square()])
    @pytest.mark.parametrize("form", ["log", "normalized"])
    def test_any_smooth_relation_beats_a_misalignment_by_one_voxel(self, relation, form):
        loss = LocalLearnedBasisCRLoss(3, basis="polynomial", form=form).eval()
        image = noise(12, 14, 16)
        target = relation(image)
        aligned = loss(image, target)
        moved = torch.stack([loss(image.roll(1, axis), target) for axis in (2, 3, 4)])
        margin = 1.0 if form == "log" else 0.2
        assert (moved > aligned + margin).all()

    def test_a_relation_that_changes_from_place_to_place(self):
        loss = LocalLearnedBasisCRLoss(2, basis="polynomial").eval()
        image = noise(30, 30)
        factor = torch.linspace(-1, 1, 30)[:, None]
        assert loss(image, image * factor) < loss(image.roll(1, 2), image * factor) - 1

    def test_the_basis_can_be_learned(self):
        loss = LocalLearnedBasisCRLoss(2)
        image = noise(40, 40)
        target = (9 * image).sin()
        start = loss.eval()(image, target)
        learn(loss.train(), image, target)
        assert loss.eval()(image, target) < start - 0.5

    def test_the_order_of_the_axes_does_not_matter(self):
        """All 48 storage orders of a volume, sigma and stride following their axes."""
        sigma, stride = (0.8, 1.0, 0.6), (3, 2, 1.5)
        pred, target, mask = (torch.rand(1, 2, 7, 8, 9, dtype=torch.float64) for _ in range(3))
        mask = mask[:, :1]
        first = LocalLearnedBasisCRLoss(3, 2, kernel_sigma=sigma, stride=stride).double().eval()
        expected = first(pred, target, mask)
        for order in itertools.permutations(range(3)):
            loss = LocalLearnedBasisCRLoss(3, 2, kernel_sigma=[sigma[i] for i in order], stride=[stride[i] for i in order])
            loss.double().eval().load_state_dict(first.state_dict())
            for flips in itertools.product((False, True), repeat=3):
                axes = [axis + 2 for axis in range(3) if flips[axis]]
                found = loss(*(x.permute(0, 1, *(i + 2 for i in order)).flip(axes) for x in (pred, target, mask)))
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)

    @pytest.mark.parametrize(("slope", "offset"), [(3.0, 0.0), (1e-3, 0.0), (2000.0, -1000.0), (1.0, 1e4)])
    @pytest.mark.parametrize("form", ["log", "normalized", "robust"])
    def test_an_affine_change_of_intensity_changes_nothing(self, slope, offset, form):
        loss = LocalLearnedBasisCRLoss(2, form=form).double().eval()
        pred, target = noise(20, 20, dtype=torch.float64), noise(20, 20, dtype=torch.float64)
        expected = loss(pred, target)
        torch.testing.assert_close(loss(slope * pred + offset, target), expected, rtol=1e-9, atol=0)
        torch.testing.assert_close(loss(pred, slope * target + offset), expected, rtol=1e-9, atol=0)
