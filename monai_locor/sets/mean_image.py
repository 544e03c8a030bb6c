# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The mean of aligned images, sharpened to the contrast of its members."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..geometry import Grid, SpatialTransform, warp
from ..io import read_image
from ..losses.intensity import robust_range
from ..registration.start.prepare import SOFT_LIMITS, smoothed
from ..tensors import plain
from .subjects import Subject

__all__ = ["MeanImage", "mean_image", "sharpening_gain"]

QUANTILE = 0.001  # of the intensity range that is mapped to [0, 1], as in a registration
SHARPENING_SIGMA = 1.0  # of the unsharp mask, voxels
MAX_SHARPENING = 1.0  # beyond, noise would be amplified
MIN_COVERAGE = 1e-3  # sum of weights, below which no image shows a voxel


@dataclass(frozen=True, eq=False)
class MeanImage:
    """A mean of images.

    Attributes:
        values: ``(1, *grid)`` float32, on the mean intensity scale of the images.
        coverage: share of the images that show a voxel, ``(1, *grid)``.
        gain: weight of the unsharp mask, 0 to :data:`MAX_SHARPENING`.
    """

    values: torch.Tensor
    coverage: torch.Tensor
    gain: float


@torch.no_grad()
def mean_image(members: Iterable[tuple[Subject, SpatialTransform]], grid: Grid, sharpen: bool = True) -> MeanImage:
    """The mean of images that are interpolated once each, from their own voxels.

    The robust intensity range of each image is mapped to [0, 1] before, and that mean back to the mean range after it, so
    that an image with a larger scale does not have a larger weight. Averaging of images that do not match exactly loses
    sharpness. An unsharp mask gives the mean the mean gradient energy of its members, as far as a gain of
    :data:`MAX_SHARPENING` can.

    Args:
        members: images of one contrast, and for each its transform from points of the grid to points of the image.
        grid: grid of the mean.
        sharpen: whether to sharpen.
    """
    total = weight = torch.zeros(1, *grid.shape, dtype=torch.float64)
    ranges, energy, count = torch.zeros(2, dtype=torch.float64), 0.0, 0
    for subject, transform in members:
        values, valid, limits = _on_grid(subject, transform, grid)
        total, weight, ranges, count = total + values * valid, weight + valid, ranges + limits, count + 1
        energy += gradient_energy(values, valid)
    mean = torch.where(weight > MIN_COVERAGE, total / weight.clamp_min(MIN_COVERAGE), 0)
    gain = 0.0
    if sharpen and count > 1:
        detail = mean - smoothed(mean.float(), [SHARPENING_SIGMA] * grid.dims)
        gain = sharpening_gain(mean, detail, weight / count, energy / count)
        mean = mean + gain * detail
    low, high = ranges / max(count, 1)
    return MeanImage((low + (high - low) * mean).float(), (weight / max(count, 1)).float(), gain)


def _on_grid(subject: Subject, transform: SpatialTransform, grid: Grid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image on a grid, its intensities about [0, 1]; the weights of its voxels; and low and high intensity."""
    image, valid = read_image(subject.image, f"subject {subject.id}:")
    own, values = Grid.of(image), plain(image)
    low, high = robust_range(values[None], None if valid is None else valid[None], QUANTILE)
    scaled = ((values.double() - low) / (high - low).clamp_min(1e-30)).clamp(*SOFT_LIMITS)
    shift = transform.displacement(grid)
    seen = warp(torch.ones_like(values) if valid is None else valid.float(), own, shift, grid)
    warped = warp(scaled, own, shift, grid, padding_mode="border")
    return warped.double(), seen.double(), torch.cat((low[0], high[0])).double()


def gradient_energy(values: torch.Tensor, weight: torch.Tensor) -> float:
    """The weighted mean squared length of the gradient, per voxel."""
    return _product(values, values, weight)


def _product(first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor) -> float:
    """The weighted mean product of the gradients of two images ``(1, *grid)``, float64."""
    total = 0.0
    for axis in range(1, first.ndim):
        both = weight.narrow(axis, 1, weight.shape[axis] - 1) * weight.narrow(axis, 0, weight.shape[axis] - 1)
        product = both * first.diff(dim=axis) * second.diff(dim=axis)
        total += float(product.sum() / both.sum().clamp_min(1e-12))
    return total


def sharpening_gain(mean: torch.Tensor, detail: torch.Tensor, weight: torch.Tensor, energy: float) -> float:
    """The smallest gain g in [0, :data:`MAX_SHARPENING`] with which ``mean + g detail`` has a gradient energy.

    Args:
        mean: ``(1, *grid)`` float64.
        detail: its difference from its Gaussian average.
        weight: weights of the voxels.
        energy: the wanted gradient energy.
    """
    own, mixed, square = (_product(*pair, weight) for pair in ((mean, mean), (mean, detail), (detail, detail)))
    if own >= energy:
        return 0.0
    if square <= 0:
        return 0.0
    root = (-mixed + math.sqrt(max(mixed**2 + square * (energy - own), 0.0))) / square
    return min(max(root, 0.0), MAX_SHARPENING)
