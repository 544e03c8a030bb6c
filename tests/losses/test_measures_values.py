# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The measures against loops in plain Python, their gradients against differences, and invariances that theory asks for."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from monai.losses import GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss

from monai_locor.losses import (
    CorrelationRatioLoss,
    LocalNCCLoss,
    LocalParzenCRLoss,
    MINDSSCLoss,
    MutualInformationLoss,
    SRWCRLoss,
)

from . import reference_measures as slow
from .reference import axis_matrix

KERNELS = {"gaussian": slow.gaussian_parzen, "spline": slow.spline_parzen}
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)


def pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Intensities in [0, 1], both ends among them."""
    images = torch.rand(2, *shape, dtype=torch.float64)
    for image in images:
        image.view(-1)[0], image.view(-1)[-1] = 0, 1
    return images[0], images[1]


def weights(shape: tuple[int, ...], masked: bool) -> torch.Tensor:
    """A third of the voxels weigh nothing, the others anything up to 1."""
    out = torch.ones(shape, dtype=torch.float64)
    return (torch.rand_like(out) > 0.3) * torch.rand_like(out) if masked else out


def run(loss: torch.nn.Module, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return loss.eval()(*(x[None, None] for x in (pred, target, mask)))


def images(*tensors: torch.Tensor) -> list[slow.Image]:
    return [slow.as_image(x) for x in tensors]


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(("shape", "masked"), [((9,), True), ((5, 7), False), ((3, 5, 4), True)], ids=str)
class TestAgainstLoops:
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_mutual_information(self, shape, masked, kernel):
        inputs = *pair(shape), weights(shape, masked)
        loss = MutualInformationLoss(len(shape), 7, kernel_type=kernel, rescale=False)
        joint = slow.joint_probability(*images(*inputs), 7, KERNELS[kernel])
        close(run(loss, *inputs), number(slow.mutual_information(joint)))
        loss = MutualInformationLoss(len(shape), 7, "normalized", kernel, rescale=False, eps=1e-14)
        close(run(loss, *inputs), number(slow.normalized_mutual_information(joint)))

    def test_mutual_information_as_published(self, shape, masked):
        """Multiplied by the mask, and all voxels counted."""
        pred, target, mask = *pair(shape), weights(shape, masked)
        loss = MutualInformationLoss(len(shape), 7, rescale=False, count_masked=True)
        joint = slow.joint_probability(*images(pred * mask, target * mask, torch.ones(shape)), 7, slow.gaussian_parzen)
        close(run(loss, pred, target, mask), number(slow.mutual_information(joint)))

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_correlation_ratio(self, shape, masked, kernel):
        pred, target, mask = *pair(shape), weights(shape, masked)
        loss = CorrelationRatioLoss(len(shape), 7, kernel, rescale=False)
        expected = slow.unexplained(*images(pred, target, mask / mask.sum()), 7, KERNELS[kernel])
        close(run(loss, pred, target, mask), number(expected))

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_local_correlation_ratio(self, shape, masked, kernel):
        pred, target, mask = *pair(shape), weights(shape, masked)
        loss = LocalParzenCRLoss(
            len(shape), 5, kernel, kernel_sigma=1.2, stride=2, rescale=False, reduction="none", min_mass=0.3
        )
        axes = [axis_matrix(n, 1.2, min(2, max(1, n / 4))) for n in shape]
        first, second, weight = images(pred, target, mask)
        expected = slow.windowed(axes, weight, 0.3, lambda w: slow.unexplained(first, second, w, 5, KERNELS[kernel]))
        close(run(loss, pred, target, mask).flatten(), torch.tensor(expected, dtype=torch.float64))

    def test_patches(self, shape, masked):
        """As many patches as it takes to have seen them all: each value is that of some patch."""
        pred, target, mask = *pair(shape), weights(shape, masked)
        loss = LocalParzenCRLoss(len(shape), 5, num_patches=200, patch_size=3, rescale=False, reduction="none", min_mass=0.1)
        found = run(loss, pred, target, mask).flatten()
        first, second, weight = images(pred, target, mask)
        expected = []
        for start in itertools.product(*(range(n - 2) for n in shape)):
            inside = {
                at: weight[at] for at in slow.voxels(shape) if all(0 <= i - s < 3 for i, s in zip(at, start, strict=True))
            }
            mass = sum(inside.values())
            value = slow.unexplained(first, second, {at: w / mass for at, w in inside.items()}, 5, slow.gaussian_parzen)
            expected.append(value if mass / len(inside) >= 0.1 else 0.0)
        distance = (found[:, None] - torch.tensor(expected, dtype=torch.float64)).abs()
        assert distance.min(1).values.max() < 1e-9  # nothing that is not a patch
        assert distance.min(0).values.max() < 1e-9  # and all of them

    @pytest.mark.parametrize("spacing", [2, 3])
    def test_srwcr(self, shape, masked, spacing):
        inputs = *pair(shape), weights(shape, masked)
        axes = [slow.spline_matrix(n, spacing) for n in shape]
        expected = number(slow.srwcr(*images(*inputs), axes, 5))
        close(run(SRWCRLoss(len(shape), 5, spacing, rescale=False), *inputs), expected)
        terms = run(SRWCRLoss(len(shape), 5, spacing, rescale=False, reduction="none"), *inputs)
        assert terms.shape[2:] == tuple(len(axis) for axis in axes)
        close(terms.sum() / (terms != 0).sum(), expected)

    @pytest.mark.parametrize(("kernel", "stride"), [("rectangular", 1), ("gaussian", 1), ("gaussian", 2)])
    def test_local_cross_correlation(self, shape, masked, kernel, stride):
        pred, target, mask = *pair(shape), weights(shape, masked)
        loss = LocalNCCLoss(len(shape), kernel, 3, 0.9, stride=stride, rescale=False, reduction="none", min_mass=0.3)
        axes = [
            slow.box_matrix(n, 3) if kernel == "rectangular" else axis_matrix(n, 0.9, min(stride, max(1, n / 4))) for n in shape
        ]
        first, second, weight = images(pred, target, mask)
        expected = slow.windowed(axes, weight, 0.3, lambda w: -slow.squared_correlation(first, second, w))
        close(run(loss, pred, target, mask).flatten(), torch.tensor(expected, dtype=torch.float64))

    @pytest.mark.parametrize(("radius", "dilation"), [(2, 2), (1, 3), (0, 1)])
    def test_mind(self, shape, masked, radius, dilation):
        if len(shape) == 1:
            pytest.skip("not defined in one dimension")
        pred, target, mask = *pair(shape), weights(shape, masked)
        inside = (mask > 0).double()
        features = [
            [slow.mind(x, shape, w, radius, dilation) for x in images(pred * inside, target * inside)]
            for w in images(mask, torch.ones(shape))
        ]
        weight = slow.as_image(mask)
        loss = MINDSSCLoss(len(shape), radius, dilation, rescale=False)
        close(run(loss, pred, target, mask), number(slow.mind_difference(*features[0], weight)))
        loss = MINDSSCLoss(len(shape), radius, dilation, rescale=False, count_masked=True)
        expected = slow.mind_difference(*features[1], weight) * sum(weight.values()) / len(weight)
        close(run(loss, pred, target, mask), number(expected))


DIFFERENTIABLE = {
    "mi": partial(MutualInformationLoss, num_bins=6),
    "mi spline": partial(MutualInformationLoss, num_bins=6, kernel_type="spline"),
    "nmi": partial(MutualInformationLoss, num_bins=6, form="normalized"),
    "cr": partial(CorrelationRatioLoss, num_bins=6),
    "cr spline": partial(CorrelationRatioLoss, num_bins=6, kernel_type="spline"),
    "local cr": partial(LocalParzenCRLoss, num_bins=4),
    "local cr spline": partial(LocalParzenCRLoss, num_bins=4, kernel_type="spline"),
    "patches": partial(LocalParzenCRLoss, num_bins=4, num_patches=6, patch_size=3),
    "srwcr": partial(SRWCRLoss, num_bins=5, spacing=3),
    "lncc": partial(LocalNCCLoss, kernel_size=3),
    "lncc gaussian": partial(LocalNCCLoss, kernel_type="gaussian", stride=2),
    "mind": MINDSSCLoss,
}


@pytest.mark.parametrize(("shape", "reduction"), [((7,), "mean"), ((3, 4, 3), "none")], ids=str)
@pytest.mark.parametrize("make", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE.keys())
def test_gradient(make, shape, reduction):
    """In a random direction; coordinate by coordinate along one axis."""
    if make is MINDSSCLoss and len(shape) == 1:
        pytest.skip("not defined in one dimension")
    loss = make(len(shape), reduction=reduction, rescale=False).eval()
    pred, target = (torch.rand(2, 1, *shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = weights((2, 1, *shape), True)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, mask), (pred, target), fast_mode=len(shape) > 1)


@pytest.mark.slow  # every voxel of both images
@pytest.mark.parametrize("make", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE.keys())
def test_gradient_of_every_voxel(make):
    loss = make(3, rescale=False).eval()
    pred, target = (torch.rand(1, 2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = weights((1, 1, 3, 4, 5), True)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, mask), (pred, target))


class TestNeighborsInMONAI:
    def test_mutual_information_is_monais(self):
        pred, target = (torch.rand(2, 1, 9, 8, 7) for _ in range(2))
        theirs = GlobalMutualInformationLoss(num_bins=23, smooth_nr=1e-5, smooth_dr=1e-5)(pred, target)
        torch.testing.assert_close(MutualInformationLoss(rescale=False)(pred, target), theirs, rtol=1e-4, atol=0)

    def test_local_cross_correlation_is_monais_inside(self):
        """Where no window leaves the image."""
        pred, target = (torch.rand(1, 1, 15, 15, 15, dtype=torch.float64) for _ in range(2))
        theirs = LocalNormalizedCrossCorrelationLoss(3, 5, reduction="none", smooth_dr=1e-9)(pred, target)
        ours = LocalNCCLoss(kernel_size=5, reduction="none", rescale=False, eps=1e-9)(pred, target)
        inner = (..., *(slice(2, -2),) * 3)
        torch.testing.assert_close(ours[inner], theirs[inner], rtol=1e-6, atol=0)


class TestInvariances:
    LABELS = 6

    def labels(self) -> torch.Tensor:
        return torch.randint(self.LABELS, (1, 1, 20, 20))

    def relabeled(self, labels: torch.Tensor) -> torch.Tensor:
        """Other intensities for the same labels, all bins taken."""
        order = torch.tensor([0, *(torch.randperm(self.LABELS - 2) + 1), self.LABELS - 1])
        return order[labels].double() / (self.LABELS - 1)

    @pytest.mark.parametrize("form", ["mutual_information", "normalized"])
    def test_information_is_that_of_the_labels(self, form):
        """With Parzen windows narrower than a bin it is the information of the counts, whatever labels are called."""
        first = self.labels()
        second = torch.where(torch.rand(first.shape) < 0.7, first, self.labels())
        loss = MutualInformationLoss(2, self.LABELS, form, sigma_ratio=0.1, rescale=False, eps=1e-12)
        counts = torch.zeros(self.LABELS, self.LABELS, dtype=torch.float64)
        for a, b in zip(first.flatten(), second.flatten(), strict=True):
            counts[a, b] += 1 / first.numel()
        rows, columns = counts.sum(1, keepdim=True), counts.sum(0, keepdim=True)
        entropies = [-torch.xlogy(p, p).sum() for p in (rows, columns, counts)]
        expected = entropies[2] - entropies[0] - entropies[1]
        if form == "normalized":
            expected = -(entropies[0] + entropies[1]) / entropies[2]
        for _ in range(3):
            found = loss(self.relabeled(first), self.relabeled(second))
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("make", [CorrelationRatioLoss, LocalParzenCRLoss, partial(SRWCRLoss, spacing=4)])
    def test_correlation_ratio_takes_any_function_of_the_prediction(self, make):
        """Relabeled predictions explain the target as well as the labels do; a perfect function explains all of it."""
        kernel = {} if isinstance(make, partial) else {"kernel_type": "spline"}
        loss = make(2, self.LABELS, rescale=False, **kernel).eval()
        labels = self.labels()
        target = self.relabeled(labels)
        assert loss(self.relabeled(labels), target) < 0.01
        noisy = torch.where(torch.rand(target.shape) < 0.3, torch.rand_like(target), target)
        values = [loss(self.relabeled(labels), noisy) for _ in range(3)]
        close(values[1], values[0], rtol=1e-4)
        close(values[2], values[0], rtol=1e-4)
        assert 0.1 < values[0] < 0.9

    @pytest.mark.parametrize("form", ["mutual_information", "normalized"])
    def test_information_under_a_monotone_change_of_intensity(self, form):
        """To the tolerance of bins that lie elsewhere; an inverted image has the same bins."""
        loss = MutualInformationLoss(2, 32, form, quantile=0)
        pred = torch.rand(1, 1, 100, 100, dtype=torch.float64)
        target = (pred + 0.3 * torch.rand_like(pred)).square()
        expected = loss(pred, target)
        close(loss(1 - pred, target), expected)
        for change in (torch.sqrt, torch.square, torch.exp):
            torch.testing.assert_close(loss(change(pred), target), expected, rtol=0.08, atol=0)

    @pytest.mark.parametrize("kernel", ["rectangular", "gaussian"])
    def test_local_correlation_of_locally_affine_images_is_one(self, kernel):
        image = torch.rand(1, 1, 30, 30, dtype=torch.float64)
        loss = LocalNCCLoss(2, kernel, eps=1e-9, reduction="none")
        for other in (3 * image - 5, -0.2 * image + 1):
            close(loss(image, other), -torch.ones(1, 1, 30, 30, dtype=torch.float64), rtol=1e-5)

    def test_mind_ignores_slope_sign_and_offset(self):
        image = torch.rand(1, 1, 12, 12, 12, dtype=torch.float64)
        other = torch.rand_like(image)
        for rescale in (True, False):
            loss = MINDSSCLoss(rescale=rescale)
            assert loss(image, -3 * image + 2) < 1e-12
            torch.testing.assert_close(loss(40 * image - 7, other), loss(image, other), rtol=1e-9, atol=0)

    def test_mind_where_several_pairs_are_the_least(self):
        """A factor changes nothing, so the gradient has no part along the image; counted twice, the least pair gives it one."""
        image = (torch.rand(1, 1, 9, 9, 9, dtype=torch.float64) > 0.5).double().requires_grad_()
        loss = MINDSSCLoss(radius=1, rescale=False)(image, torch.rand(1, 1, 9, 9, 9, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(loss, image)
        assert (gradient * image).sum().abs() < 1e-12 < gradient.abs().sum()

    @pytest.mark.parametrize("make", [MutualInformationLoss, CorrelationRatioLoss, LocalParzenCRLoss, SRWCRLoss])
    def test_without_rescaling_intensities_end_at_zero_and_one(self, make):
        loss = make(2, rescale=False).eval()
        images = 2 * torch.rand(2, 1, 1, 12, 12, dtype=torch.float64) - 0.5
        close(loss(*images), loss(*images.clamp(0, 1)))
        pred = images[0].requires_grad_()
        (gradient,) = torch.autograd.grad(loss(pred, images[1]), pred)
        assert gradient.any() and not gradient[(pred < 0) | (pred > 1)].any()

    def test_values_at_the_ends_of_the_range(self):
        image, other = torch.rand(2, 1, 1, 40, 40, dtype=torch.float64)
        assert MutualInformationLoss(2, sigma_ratio=0.1)(image, image) < -0.8 * math.log(23)
        assert CorrelationRatioLoss(2)(image, image) < 0.02 and CorrelationRatioLoss(2)(other, image) > 0.9
        assert MINDSSCLoss(2)(image, image) == 0 and MINDSSCLoss(2)(other, image) > 0.05
