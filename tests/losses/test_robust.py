# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The robust form against its formula in plain operations."""

from __future__ import annotations

import pytest
import torch

from monai_locor.losses.robust import MIN_SHARE, robust_shares

EPS = 1e-2


def inputs_of(windows: tuple[int, ...] = (4, 5), channels: int = 2) -> list[torch.Tensor]:
    """R, and mean square and mean with a row between them, of two items; the variance of some windows is negative; float64."""
    torch.manual_seed(0)
    mean = torch.rand(2, channels, *windows, dtype=torch.float64)
    variance = torch.rand_like(mean) - 0.3
    return [torch.rand_like(mean), torch.cat([mean.square() + variance, mean[:, :1], mean], 1)]


def plain(residual: torch.Tensor, moments: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    out, channels = torch.empty_like(residual), residual.shape[1]
    square, mean = moments[:, :channels], moments[:, -channels:]
    for item in range(len(residual)):
        for channel in range(residual.shape[1]):
            r, variance = residual[item, channel], (square - mean**2)[item, channel].relu()
            share, weight = r / (variance + EPS), (variance / (variance + EPS)).detach()
            if counts is not None:
                weight = weight * counts[item, 0]
            scale = float((share.detach() * weight).sum() / weight.sum()) if weight.any() else 0.0
            scale = max(scale, MIN_SHARE)
            out[item, channel] = 2 * scale**0.5 * torch.log(1 + share / scale)
    return out


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients(masked):
    inputs = [x.requires_grad_() for x in inputs_of()]
    counts = torch.rand(2, 1, 4, 5) > 0.4 if masked else None
    found, expected = robust_shares(*inputs, counts, EPS), plain(*inputs, counts)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.rand_like(found)
    for ours, theirs in zip(*(torch.autograd.grad((x * weights).sum(), inputs) for x in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_inputs_are_left_alone():
    inputs = inputs_of()
    before = [x.clone() for x in inputs]
    robust_shares(*inputs, torch.rand(2, 1, 4, 5) > 0.4, EPS)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_windows_without_contrast_have_the_smallest_scale():
    residual, moments = inputs_of()
    mean = moments[:, -2:]
    found = robust_shares(residual, torch.cat([mean.square() - 1e-3, mean], 1), None, EPS)
    torch.testing.assert_close(found, 2 * MIN_SHARE**0.5 * torch.log1p(residual / EPS / MIN_SHARE))
    assert not torch.equal(found, robust_shares(residual, moments, None, EPS))


def test_under_function_transforms():
    inputs = inputs_of()

    def score(*x: torch.Tensor) -> torch.Tensor:
        return robust_shares(*(y[None] for y in x), None, EPS).square().sum()

    found = torch.func.vmap(torch.func.grad(score, (0, 1)))(*inputs)
    inputs = [x.requires_grad_() for x in inputs]
    expected = torch.autograd.grad(robust_shares(*inputs, None, EPS).square().sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
