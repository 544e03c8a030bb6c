# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The images of one direction at one stage of the schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, warp
from ..transforms import derivative_magnitude
from .start.prepare import PreparedImage, smoothed, weighted_gaussian

__all__ = ["Level", "image_features", "level_grid", "make_level"]

MIN_SAMPLES = 8  # along an axis, unless the image itself has fewer
MIN_FOREGROUND = 0.05  # of the robust intensity range
FOREGROUND_MARGIN = 6  # samples


@dataclass(frozen=True)
class Level:
    """One direction at one stage: a reference image on the level's grid, the other one on its own voxels.

    Attributes:
        grid: samples of the loss, aligned with the reference image.
        reference: ``(1, C, *grid)``: intensity and derivative magnitude, of one channel of the images after the other.
        weight: ``(1, 1, *grid)`` or None.
        other: ``(1, C, *voxels)``, smoothed alike; with masks, its weight is the last channel.
        other_grid: grid of ``other``.
        masked: whether ``other`` carries its weight.
    """

    grid: Grid
    reference: torch.Tensor
    weight: torch.Tensor | None
    other: torch.Tensor
    other_grid: Grid
    masked: bool


def level_grid(grid: Grid, factor: float) -> Grid:
    """Samples ``factor`` smallest voxels apart, never finer than the voxels nor fewer than eight along an axis."""
    step = np.maximum(grid.spacing, factor * grid.spacing.min())
    most = np.maximum(grid.spacing, (np.array(grid.shape) - 1) * grid.spacing / (MIN_SAMPLES - 1))
    step = np.minimum(step, most)
    return grid if np.allclose(step, grid.spacing, rtol=1e-3) else grid.resampled(step)


def make_level(
    reference: PreparedImage,
    other: PreparedImage,
    factor: float,
    derivative: str = "none",
    unit: str = "sample",
    region: str = "foreground",
) -> Level:
    """Smooth both images to the distance of the samples, add their derivative magnitude, sample the reference.

    Smoothing is Gaussian with a standard deviation of a third of the sample distance, none where voxels are coarser.

    Args:
        derivative, region: see :class:`monai_locor.registration.RegistrationConfig`.
        unit: its ``derivative_unit``.
    """
    grid = level_grid(reference.grid, factor)
    features, weight = image_features(reference, grid.spacing, derivative == "both", unit)
    if grid is not reference.grid:
        features = warp(features, reference.grid, None, grid, padding_mode="border")
        weight = None if weight is None else warp(weight, reference.grid, None, grid, padding_mode="border")
    intensity = features[:: len(features) // len(reference.image)]
    box = _box_around(
        _seen(intensity[0] if len(intensity) == 1 else intensity.amax(0), None if weight is None else weight[0], region)
    )
    inside = (slice(None), *box)
    moved, moved_weight = image_features(other, grid.spacing, derivative != "none", unit)
    return Level(
        grid=grid.cropped(box),
        reference=features[inside][None],
        weight=None if weight is None else weight[inside][None],
        other=(moved if moved_weight is None else torch.cat((moved, moved_weight)))[None],
        other_grid=other.grid,
        masked=moved_weight is not None,
    )


def _seen(intensity: torch.Tensor, weight: torch.Tensor | None, region: str) -> torch.Tensor:
    """Samples that the loss must cover, bool."""
    if region == "image":
        return torch.ones_like(intensity, dtype=torch.bool) if weight is None else weight > 0
    return (intensity if weight is None else intensity * weight) > MIN_FOREGROUND


def _box_around(seen: torch.Tensor) -> tuple[slice, ...]:
    """The bounding box of some samples, with a margin for the windows and the neighborhood of edges.

    Windows over a constant background have no gradient; leaving them out saves time and keeps the weight of the bending
    energy independent of the amount of air in the field of view.
    """
    box = []
    for axis, n in enumerate(seen.shape):
        where = seen.any(tuple(a for a in range(seen.ndim) if a != axis)) if seen.ndim > 1 else seen
        index = where.nonzero().flatten().tolist() or [0, n - 1]
        box.append(slice(max(0, index[0] - FOREGROUND_MARGIN), min(n, index[-1] + 1 + FOREGROUND_MARGIN)))
    return tuple(box)


def image_features(
    image: PreparedImage, step: np.ndarray, derivative: bool, unit: str = "sample"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An image smoothed for samples ``step`` mm apart, with its derivative magnitude.

    Args:
        step: distance of the samples along each axis, ``(D,)``, mm.
        unit: length that the derivative magnitude is the change over: the distance of two samples, or of two voxels.

    Returns:
        intensity and, with ``derivative``, its derivative magnitude, ``(C, *voxels)``, of one channel after the other; and
        the weights of voxels that are not affected by voxels outside the mask, ``(1, *voxels)``, or None without a mask.
    """
    sigma = [ratio / 3 if ratio > 1.01 else 0.0 for ratio in step / image.grid.spacing]
    weight = image.weight
    smooth = image.image
    if any(sigma):
        if weight is None:
            smooth = smoothed(smooth, sigma)
        else:
            average, reached = weighted_gaussian(smooth, weight, sigma)
            smooth = torch.where(reached, average, smooth)
    if weight is not None:
        # where nothing is smoothed, differences and interpolation reach one voxel across the border of the mask
        weight = _eroded(weight, [axis for axis, s in enumerate(sigma) if s == 0])
    if not derivative:
        return smooth, weight
    # a pure number, and over the distance of two samples of the order of the intensities
    distance = image.grid.spacing if unit == "voxel" else step
    magnitude = derivative_magnitude(smooth, image.grid.affine[:-1, :-1]) * float(distance.min())
    return torch.stack((smooth, magnitude), 1).flatten(0, 1), weight


def _eroded(weight: torch.Tensor, axes: list[int]) -> torch.Tensor:
    """The smallest weight among neighbors along some axes; the border of the image is not a neighbor."""
    out = weight
    for axis in axes:
        before, after = out.narrow(axis + 1, 0, out.shape[axis + 1] - 1), out.narrow(axis + 1, 1, out.shape[axis + 1] - 1)
        lower = torch.minimum(before, after)
        out = out.clone()
        out.narrow(axis + 1, 0, lower.shape[axis + 1]).copy_(torch.minimum(before, lower))
        end = out.narrow(axis + 1, 1, lower.shape[axis + 1])
        end.copy_(torch.minimum(end, lower))
    return out
