# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The functions behind the local measures: moments, fits and unexplained shares, against dense least squares."""

from __future__ import annotations

from functools import reduce

import pytest
import torch

from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.functional import (
    LocalMoments,
    average_by_mass,
    local_fit,
    local_moments,
    one_minus_correlation_ratio,
    ridge_solution,
    unexplained_share,
)
from monai_locor.losses.products import LocalGram
from monai_locor.losses.ridge import gram_pairs
from monai_locor.losses.streaming import StreamedWindows
from monai_locor.losses.windows import AxisWindows
from monai_locor.networks import PolynomialBasis

from .reference import axis_matrix

SHAPE, SIGMA, STRIDE = (9, 8), 1.2, 2.0


def moments(pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, degree: int = 2) -> LocalMoments:
    """Moments with the means, for windows that all count, over a polynomial basis."""
    shift = torch.zeros((), dtype=torch.float64)
    axes = [AxisWindows.gaussian(n, SIGMA, STRIDE, 3.0, shift) for n in SHAPE]
    windows = StreamedWindows(axes, 1 << 20)
    return local_moments(PolynomialBasis(1, degree), pred, target, weight, windows, min_mass=1e-6, means=True)


def dense_weights(weight: torch.Tensor) -> torch.Tensor:
    """Weights of the voxels in every window, rows of sum one, ``(windows, voxels)``."""
    rows = reduce(torch.kron, (axis_matrix(n, SIGMA, STRIDE) for n in SHAPE)) * weight.flatten()
    return rows / rows.sum(1, keepdim=True)


@pytest.fixture
def images() -> list[torch.Tensor]:
    """Prediction, target and weights, float64."""
    generator = torch.Generator().manual_seed(0)
    return list(0.1 + 0.9 * torch.rand(3, 1, 1, *SHAPE, dtype=torch.float64, generator=generator))


def test_moments_are_weighted_averages(images):
    pred, target, weight = images
    found, rows = moments(*images), dense_weights(weight)
    p, t = pred.flatten(), target.flatten()
    assert (found.counts is not None) and bool(found.counts.all())
    torch.testing.assert_close(found.psi.flatten(2)[0], torch.stack([rows @ p**k for k in range(3)]))
    torch.testing.assert_close(found.psi_t.flatten(3)[0, :, 0], torch.stack([rows @ (p**k * t) for k in range(3)]))
    torch.testing.assert_close(found.t_t.flatten(), rows @ t**2)


@pytest.mark.parametrize("form", ["log", "normalized"])
def test_the_residual_is_that_of_least_squares(images, form):
    """Every window by ``torch.linalg.lstsq``; a constant is among the basis functions."""
    pred, target, weight = images
    fit = local_fit(moments(*images), form, ridge=1e-12, eps=1e-12)
    psi = torch.stack([pred.flatten() ** k for k in range(3)], 1)
    t = target.flatten()
    for row, found in zip(dense_weights(weight), fit.residual.flatten(), strict=True):
        theta = torch.linalg.lstsq(psi * row.sqrt()[:, None], (t * row.sqrt())[:, None]).solution[:, 0]
        expected = row @ (t - psi @ theta) ** 2
        variance = row @ (t - row @ t) ** 2
        torch.testing.assert_close(found, expected if form == "log" else expected / variance, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("form", ["log", "normalized", "robust"])
def test_the_right_hand_sides_are_those_of_the_target_that_is_fitted(images, form):
    """In the normalized form, of the target with mean 0 and variance 1 in each window."""
    pred, target, weight = images
    fit, rows = local_fit(moments(*images), form, ridge=1e-12, eps=1e-12), dense_weights(weight)
    psi, t = torch.stack([pred.flatten() ** k for k in range(3)]), target.flatten()
    mean = rows @ t
    deviation = (rows @ t**2 - mean**2).sqrt()
    if form == "normalized":
        expected = torch.stack([(rows * p * (t - mean[:, None])).sum(1) / deviation for p in psi])
        for found, value in ((fit.mean, mean), (fit.deviation, deviation), (fit.variance, deviation**2)):
            torch.testing.assert_close(found.flatten(), value, rtol=1e-6, atol=1e-9)
    else:
        expected = torch.stack([rows @ (p * t) for p in psi])
        assert fit.mean is None and fit.deviation is None and fit.variance is None
    torch.testing.assert_close(fit.psi_t.flatten(3)[0, :, 0], expected, rtol=1e-6, atol=1e-9)


def test_the_solution_satisfies_the_normal_equations(images):
    found = moments(*images)
    theta = ridge_solution(found.psi_psi, found.psi_t, 0.1)[0, :, 0].flatten(1)
    a = torch.zeros(3, 3, *theta.shape[1:], dtype=theta.dtype)
    for (i, j), value in zip(gram_pairs(3), found.psi_psi[0].flatten(1), strict=True):
        a[i, j] = a[j, i] = value
    left = torch.einsum("ijw,jw->iw", a, theta) + 0.1 * theta
    torch.testing.assert_close(left, found.psi_t[0, :, 0].flatten(1))


def test_a_function_of_the_basis_is_explained_and_noise_is_not(images):
    pred, noise, weight = images
    share, variance = unexplained_share(moments(pred, 3 * pred**2 - pred, weight), 1e-10, 1e-10)
    assert share.max() < 1e-4 and variance.min() > 0
    share, _ = unexplained_share(moments(pred, noise, weight, degree=0), 1e-10, 1e-10)
    torch.testing.assert_close(share, torch.ones_like(share), rtol=0, atol=1e-4)


def test_the_share_does_not_depend_on_the_scale_of_the_target(images):
    pred, target, weight = images
    first, _ = unexplained_share(moments(pred, target, weight), 1e-10, 1e-10)
    second, _ = unexplained_share(moments(pred, 5 - 4 * target, weight), 1e-10, 1e-10)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_the_loss_returns_the_share_of_these_functions(images):
    pred, target, weight = images
    loss = LocalLearnedBasisCRLoss(
        2, basis="polynomial", degree=2, kernel_sigma=SIGMA, stride=STRIDE, min_mass=1e-6, ridge=1e-3, eps=1e-3
    ).eval()
    expected = unexplained_share(moments(*images), 1e-3, 1e-3)
    for x, y in zip(loss.unexplained_share(pred, target, weight), expected, strict=True):
        torch.testing.assert_close(x, y)


def test_the_normalized_form_needs_the_means(images):
    found = moments(*images)
    gram = LocalGram(PolynomialBasis(1, 2), 3, 1)
    without = LocalMoments(found.maps[:, : gram.count], gram)
    with pytest.raises(ValueError, match="means=True"):
        local_fit(without, "normalized", 1e-4, 1e-4)
    assert bool(local_fit(without, "log", 1e-4, 1e-4).counts.all())


def test_windows_of_little_mass_do_not_count():
    mass = torch.tensor([0.1, 0.25 * (1 - 1e-7), 1.0])[None, None]
    averages, counts = average_by_mass(2 * mass, mass, 0.25)
    assert counts.flatten().tolist() == [False, True, True] and bool(averages.isfinite().all())
    torch.testing.assert_close(averages.flatten()[1:], torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize(
    ("t", "expected"), [([1.0, 1.0, 5.0, 5.0], 0.0), ([1.0, 5.0, 1.0, 5.0], 1.0), ([1.0, 3.0, 5.0, 7.0], 0.2)]
)
def test_correlation_ratio_of_two_bins(t, expected):
    """The first two voxels lie in one bin, the others in the other; the share is variance within over total variance."""
    values, bins = torch.tensor([t], dtype=torch.float64), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.float64)
    moments_of_bins = [(bins * values**k).mean(1)[None] for k in range(3)]
    found = one_minus_correlation_ratio(*moments_of_bins[:2], moments_of_bins[2].sum(1), eps=1e-9)
    assert float(found) == pytest.approx(expected, abs=1e-6)
