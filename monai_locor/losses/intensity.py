# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Intensities brought to a common range, with the exact derivative."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from ..autograd import StreamedFunction

__all__ = ["IntensityRange", "intensity_range", "normalized", "rescale", "robust_range", "subsample_step"]

MAX_SUBSAMPLE_VOXELS = 1 << 16  # voxels that the quantiles are taken from
MIN_INTENSITY_SPAN = 1e-30  # a channel that varies less is constant: the reciprocal must stay finite in float32
MAX_RESCALED_INTENSITY = (
    10.0  # rescaled values beyond this (outliers, by definition) are clamped, so that no power of them overflows
)


@dataclass(frozen=True)
class IntensityRange:
    """Low and high intensity of each channel of each item, and the voxels where they occur.

    Attributes:
        low, high: ``(B, C)`` float64; both 0 if no voxel is valid.
        low_at, high_at: indices of the voxels, ``(B, C)`` int64, into the flattened image. None for a
            range that is constant, through which no derivative passes.
    """

    low: torch.Tensor
    high: torch.Tensor
    low_at: torch.Tensor | None
    high_at: torch.Tensor | None

    def frozen(self) -> IntensityRange:
        """The same range as a constant."""
        return replace(self, low_at=None, high_at=None)


def subsample_step(shape: Sequence[int]) -> int:
    """Distance, in the flattened image of this spatial shape, between the voxels that quantiles are taken from.

    It shares no factor with the length of any axis: otherwise the voxels would lie on a few planes only.

    >>> subsample_step((91, 109, 91)), subsample_step((224, 224, 224))
    (15, 171)
    """
    step = max(1, math.prod(shape) // MAX_SUBSAMPLE_VOXELS)
    while any(math.gcd(step, n) > 1 for n in shape):
        step += 1
    return step


def robust_range(
    image: torch.Tensor, valid: torch.Tensor | None = None, quantile: float = 0.005
) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high of :func:`intensity_range`, ``(B, C)`` float64 each."""
    found = intensity_range(image, valid, quantile)
    return found.low, found.high


def intensity_range(image: torch.Tensor, valid: torch.Tensor | None = None, quantile: float = 0.005) -> IntensityRange:
    """Low and high quantile of each channel of each item, from a regular subsample, without host synchronization.

    Where the two coincide (sparse images) or the subsample has no valid voxel, minimum and maximum of all valid voxels
    replace them, as for a quantile of 0.

    Args:
        image: ``(B, C, *spatial)``, floating point.
        valid: ``(1 or B, 1, *spatial)`` bool, valid voxels; None for all.
        quantile: share of voxels below the low and above the high value.
    """
    flat = image.detach().flatten(2)
    keep = None if valid is None else valid.flatten(2)
    least, most = _extremes(flat, keep)
    if quantile > 0:
        low, high = _quantiles(flat, keep, quantile, subsample_step(image.shape[2:]))
        varies = high.value > low.value
        low, high = (
            _Found(*(torch.where(varies, a, b) for a, b in zip(inner, outer, strict=True)))
            for inner, outer in ((low, least), (high, most))
        )
    else:
        low, high = least, most
    some = most.value >= least.value
    return IntensityRange(torch.where(some, low.value, 0), torch.where(some, high.value, 0), low.place, high.place)


class _Found(NamedTuple):
    """Values, float64, and indices of the voxels where they occur, ``(B, C)`` each."""

    value: torch.Tensor
    place: torch.Tensor


def _quantiles(flat: torch.Tensor, keep: torch.Tensor | None, quantile: float, step: int) -> tuple[_Found, _Found]:
    values = flat[..., ::step].double()
    if keep is not None:
        keep = keep[..., ::step]
        values = torch.where(keep, values, torch.inf)
        last = (keep.sum(-1, keepdim=True) - 1).clamp_min(0).expand(*values.shape[:2], 1)
    else:
        last = torch.full((*values.shape[:2], 1), values.shape[2] - 1, device=values.device)
    order, index = values.sort(-1)

    def at(q: float) -> _Found:
        rank = (q * last.double()).round().long()
        return _Found(order.gather(-1, rank)[..., 0], index.gather(-1, rank)[..., 0] * step)

    return at(quantile), at(1 - quantile)


def _extremes(flat: torch.Tensor, keep: torch.Tensor | None) -> tuple[_Found, _Found]:
    """Minimum and maximum of ``(B, C, voxels)`` where ``keep``; infinite, with the wrong sign, where no voxel is kept."""
    low = (flat if keep is None else torch.where(keep, flat, torch.inf)).min(-1)
    high = (flat if keep is None else torch.where(keep, flat, -torch.inf)).max(-1)
    return _Found(low.values.double(), low.indices), _Found(high.values.double(), high.indices)


def normalized(image: torch.Tensor, scale: IntensityRange, lowest: float, highest: float) -> torch.Tensor:
    """``(x - low) / (high - low)`` per item and channel, clamped to ``[lowest, highest]``; a constant channel becomes 0.

    Unless the range is frozen, the derivative includes that of its two ends, which are intensities of two voxels of the image.
    Without it a gradient step could increase the loss, since the range moves along with the image.

    Args:
        image: ``(B, C, *spatial)``, floating point.
        scale: its range, from :func:`intensity_range` of this image or frozen.
        lowest, highest: limits of the result.
    """
    low, high, low_at, high_at = (None if x is None else x.to(image.device) for x in vars(scale).values())
    return _Normalization.apply(lowest, highest, image, low, high, low_at, high_at)


def rescale(image: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """:func:`normalized` by the quantiles of the valid voxels; outliers are clamped far outside [0, 1]."""
    return normalized(image, intensity_range(image, valid), -MAX_RESCALED_INTENSITY, MAX_RESCALED_INTENSITY)


def _affine(image: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The image relative to its range, not clamped, and one over the span, ``(B, C, 1, ...)``; 0 for a constant channel."""
    span = high - low
    varies = span > MIN_INTENSITY_SPAN
    shape = (*low.shape, *(1 for _ in image.shape[2:]))
    scale = torch.where(varies, 1 / torch.where(varies, span, 1), 0).to(image.dtype).view(shape)
    # subtract the offset first: with one of 1e4, the difference of two products would have no digits left
    return (image - low.to(image.dtype).view(shape)).mul_(scale), scale


class _Normalization(StreamedFunction):
    """Keeps the image for the backward pass, and nothing else of its size."""

    leading = range(2, 7)
    differentiable = (2,)

    @staticmethod
    def forward(
        lowest: float,
        highest: float,
        image: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        low_at: torch.Tensor | None,
        high_at: torch.Tensor | None,
    ) -> torch.Tensor:
        return _affine(image, low, high)[0].clamp_(lowest, highest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = {"limits": inputs[:2]}
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        image, low, high, low_at, high_at = ctx.saved_tensors
        (lowest, highest), (out, scale) = ctx.options["limits"], _affine(image, low, high)
        of_image = grad * scale * ((out >= lowest) & (out <= highest))
        if low_at is not None:
            # d out / d low = (out - 1) scale, d out / d high = -out scale
            total = of_image.flatten(2).sum(-1, dtype=torch.float64)
            moment = of_image.mul(out).flatten(2).sum(-1, dtype=torch.float64)
            of_image = of_image.contiguous()  # whose flat view is written to
            flat = of_image.view(*image.shape[:2], -1)
            for index, value in ((low_at, moment - total), (high_at, -moment)):
                flat.scatter_add_(2, index[..., None], value[..., None].to(flat.dtype))
        return None, None, of_image, None, None, None, None
