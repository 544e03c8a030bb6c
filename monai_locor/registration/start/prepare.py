# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Preparation of images for the engine: axis order, normalized intensities, weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks.layers import gaussian_1d

from ...geometry import Grid, reorder, separable, stored_order, toeplitz
from ...losses.intensity import robust_range
from ...precision import guarded
from ...tensors import plain

__all__ = ["PreparedImage", "prepare", "smoothed", "weighted_gaussian"]

SOFT_LIMITS = (-0.25, 1.25)  # limits of normalized intensities: keep some contrast beyond the robust range, bound outliers


@dataclass(frozen=True)
class PreparedImage:
    """An image in canonical axis order with intensities in about [0, 1].

    Attributes:
        image: intensities, ``(C, *spatial)`` float32, one or several channels.
        weight: weights of the voxels, ``(1, *spatial)`` in [0, 1], or None for weights of 1.
        grid: grid of the image, with axes closest to R, A, S.
        stored: grid of the image as given.
        axes, flips: reordering from ``stored`` to ``grid``.
    """

    image: torch.Tensor
    weight: torch.Tensor | None
    grid: Grid
    stored: Grid
    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @property
    def device(self) -> torch.device:
        """The device of the image."""
        return self.image.device

    def to(self, device: torch.device | str) -> PreparedImage:
        """Copy to a device; the copy is usable by autograd even if the image was created in ``torch.inference_mode``."""
        weight = None if self.weight is None else plain(self.weight).to(device)
        return dataclasses.replace(self, image=plain(self.image).to(device), weight=weight)

    def to_stored(self, volume: torch.Tensor) -> torch.Tensor:
        """Reorder ``(C, *spatial)`` from :attr:`grid` to :attr:`stored`; vector components (world) are not changed."""
        return reorder(volume, *stored_order(self.axes, self.flips))


@guarded
def prepare(
    image: torch.Tensor, weight: torch.Tensor | None, quantile: float, device: torch.device, grid: Grid | None = None
) -> PreparedImage:
    """Reorder the axes and normalize the intensities by robust quantiles inside the mask.

    Args:
        image: ``(C, *spatial)``, finite; channels are normalized separately.
        weight: ``(1, *spatial)`` on the same grid, or None.
        quantile: see :class:`monai_locor.registration.RegistrationConfig`.
        device: device of the result.
        grid: grid of the image; by default that of the MetaTensor.
    """
    stored = Grid.of(image) if grid is None else grid
    axes, flips = stored.canonical_order()
    values = reorder(plain(image).detach().float(), axes, flips).to(device)
    if weight is not None:
        weight = reorder(plain(weight).detach().float().clamp(0, 1), axes, flips).to(device)
    channels = [_normalized(channel, weight, quantile) for channel in values.split(1)]
    values = channels[0] if len(channels) == 1 else torch.cat(channels)
    return PreparedImage(values, weight, stored.reordered(axes, flips).snapped(), stored, axes, flips)


def _normalized(values: torch.Tensor, weight: torch.Tensor | None, quantile: float) -> torch.Tensor:
    low, high = robust_range(values[None], None if weight is None else weight[None] > 0, quantile)
    # float64, because a large offset (1e4) would leave too few digits for a small contrast
    values = ((values.double() - low.item()) / max(high.item() - low.item(), 1e-30)).clamp_(*SOFT_LIMITS).float()
    return values if weight is None else _filled(values, weight)


def weighted_gaussian(image: torch.Tensor, weight: torch.Tensor, sigma: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the weighted Gaussian average and its support.

    Args:
        image, weight: ``(1, *spatial)``.
        sigma: standard deviation along each axis, voxels; 0 for no smoothing.

    Returns:
        the average, normalized by the weights, also at the border; and a mask of voxels with a nonzero sum of weights.
    """
    matrices = [_gaussian_matrix(n, s).to(image, non_blocking=True) for n, s in zip(image.shape[1:], sigma, strict=True)]
    total = separable(matrices, weight)
    return separable(matrices, image * weight) / total.clamp_min(1e-6), total > 1e-3


def smoothed(image: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Compute the Gaussian average over all voxels: :func:`weighted_gaussian` with weights of 1."""
    matrices = [_gaussian_matrix(n, s) for n, s in zip(image.shape[1:], sigma, strict=True)]
    return separable([(m / m.sum(1, keepdim=True)).to(image, non_blocking=True) for m in matrices], image)


def _gaussian_matrix(size: int, sigma: float) -> torch.Tensor:
    width = torch.tensor(float(sigma), dtype=torch.float32, device="cpu")
    return toeplitz(gaussian_1d(width, truncated=4.0) if sigma > 0 else torch.ones_like(width)[None], size)


def _filled(image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Extrapolate the image smoothly outside the mask, so that smoothing does not mix in values from there."""
    valid = (weight > 0).to(image)
    near, reached = weighted_gaussian(image, valid, [2.0] * (image.ndim - 1))
    mean = (image * valid).sum() / valid.sum().clamp_min(1)
    return torch.where(valid > 0, image, torch.where(reached, near, mean))
