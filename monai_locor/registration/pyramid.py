# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The images of one direction at one stage of the schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, warp
from ..geometry.partition import grown
from ..transforms import derivative_magnitude
from .start.prepare import PreparedImage, smoothed, weighted_gaussian

__all__ = ["FOREGROUND_MARGIN", "Level", "distance_ratios", "image_features", "level_grid", "make_level", "sample_distances"]

MIN_SAMPLES = 8  # along an axis, unless the image itself has fewer
MIN_FOREGROUND = 0.05  # relative to the robust intensity range
FOREGROUND_MARGIN = 6  # samples, at most


@dataclass(frozen=True)
class Level:
    """One direction at one stage: a reference image on the grid of the level, the other image on its own grid.

    Attributes:
        grid: samples of the loss, aligned with the reference image.
        reference: ``(1, C, *grid)``: intensity and derivative magnitude of each image channel in turn.
        weight: weights of the samples, ``(1, 1, *grid)``, or None.
        other: ``(1, C, *voxels)``, smoothed equally; with masks, the last channel is its weight.
        other_grid: grid of ``other``.
        masked: whether the last channel of ``other`` is its weight.
        share: weight of the samples relative to those with a margin of :data:`FOREGROUND_MARGIN`.
    """

    grid: Grid
    reference: torch.Tensor
    weight: torch.Tensor | None
    other: torch.Tensor
    other_grid: Grid
    masked: bool
    share: float

    @torch.no_grad()
    def weighted(self, warped: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the warped ``other``, with its weights, and the weights of the samples, from those inside its grid."""
        if self.masked:
            inside *= warped[:, -1:]
        if self.weight is not None:
            inside *= self.weight
        return warped, inside


def level_grid(grid: Grid, factor: float) -> Grid:
    """Return the grid of samples, ``factor`` smallest voxel sides apart, not finer than voxels, at least eight per axis."""
    step = sample_distances(grid, factor)
    most = np.maximum(grid.spacing, (np.array(grid.shape) - 1) * grid.spacing / (MIN_SAMPLES - 1))
    step = np.minimum(step, most)
    return grid if np.allclose(step, grid.spacing, rtol=1e-3) else grid.resampled(step)


def sample_distances(grid: Grid, factor: float) -> np.ndarray:
    """Return the distance of the samples along each axis if there are enough of them, ``(D,)``, mm."""
    return np.maximum(grid.spacing, factor * grid.spacing.min())


def distance_ratios(fixed: Grid, moving: Grid, factor: float, matrix: np.ndarray) -> np.ndarray:
    """Return the distances of the samples along the axes of the fixed image, relative to the smallest.

    The larger distance of both directions counts, because a deformation is determined only by what both images resolve. Along
    a unit vector e, the samples of a grid with axes a_k (mm) are taken to be ``sqrt(sum_k (a_k . e)^2)`` apart: the exact
    distance along an axis, and the same along all e if the grid is isotropic.

    Args:
        fixed, moving: grids of the images.
        factor: sample distance of the stage, in units of the smallest voxel side of either image.
        matrix: affine from fixed to moving points, ``(D + 1, D + 1)``, RAS mm. Only its rotation is used.

    Returns:
        ``(D,)``, at least 1, rounded to six digits, so that rounding errors of the affines do not matter.
    """
    own, other = sample_distances(fixed, factor), sample_distances(moving, factor)
    left, _, right = np.linalg.svd(matrix[:-1, :-1])
    along_fixed = left @ right @ (fixed.affine[:-1, :-1] / fixed.spacing)
    along_moving = moving.affine[:-1, :-1] / moving.spacing
    found = np.maximum(own, np.linalg.norm(other[:, None] * (along_moving.T @ along_fixed), axis=0))
    found[np.array(fixed.shape) == 1] = found.min()  # a single slice has no samples along its axis
    return np.round(found / found.min(), 6)


def make_level(
    reference: PreparedImage,
    other: PreparedImage,
    factor: float,
    derivative: str = "none",
    unit: str = "sample",
    region: str = "foreground",
    margins: int | Sequence[int] = FOREGROUND_MARGIN,
) -> Level:
    """Smooth both images for the sample distance, compute their derivative magnitude and sample the reference.

    Smoothing is Gaussian with a standard deviation of a third of the sample distance, or none if the voxels are coarser.

    Args:
        derivative, region: see :class:`monai_locor.registration.RegistrationConfig`.
        unit: ``derivative_unit`` of the settings.
        margins: samples around the region, along all axes or each.
    """
    grid = level_grid(reference.grid, factor)
    features, weight = image_features(reference, grid.spacing, derivative == "both", unit)
    if grid is not reference.grid:
        features = warp(features, reference.grid, None, grid, padding_mode="border")
        weight = None if weight is None else warp(weight, reference.grid, None, grid, padding_mode="border")
    intensity = features[:: len(features) // len(reference.image)]
    seen = _seen(intensity[0] if len(intensity) == 1 else intensity.amax(0), None if weight is None else weight[0], region)
    # with a margin for the windows and the neighborhood of edges: windows over a constant background have no gradient, and
    # without them, the weight of the bending energy does not depend on the amount of air in the field of view
    bounds = _box_of(seen)
    box, large = (grown(bounds, grid.shape, by) for by in (margins, FOREGROUND_MARGIN))
    inside = (slice(None), *box)
    moved, moved_weight = image_features(other, grid.spacing, derivative != "none", unit)
    return Level(
        grid=grid.cropped(box),
        reference=features[inside][None],
        weight=None if weight is None else weight[inside][None],
        other=(moved if moved_weight is None else torch.cat((moved, moved_weight)))[None],
        other_grid=other.grid,
        masked=moved_weight is not None,
        share=_weight_in(box, weight) / _weight_in(large, weight) if box != large else 1.0,
    )


def _seen(intensity: torch.Tensor, weight: torch.Tensor | None, region: str) -> torch.Tensor:
    """Return a mask of the samples that the loss must cover, bool."""
    if region == "image":
        return torch.ones_like(intensity, dtype=torch.bool) if weight is None else weight > 0
    return (intensity if weight is None else intensity * weight) > MIN_FOREGROUND


def _box_of(seen: torch.Tensor) -> tuple[slice, ...]:
    """Return the bounding box of a mask, all of the grid if it is empty."""
    box = []
    for axis, n in enumerate(seen.shape):
        where = seen.any(tuple(a for a in range(seen.ndim) if a != axis)) if seen.ndim > 1 else seen
        index = where.nonzero().flatten().tolist() or [0, n - 1]
        box.append(slice(index[0], index[-1] + 1))
    return tuple(box)


def _weight_in(box: tuple[slice, ...], weight: torch.Tensor | None) -> float:
    """Return the sum of the weights of the samples in a box."""
    if weight is None:
        return float(math.prod(s.stop - s.start for s in box))
    index = slice(None), *box
    return max(float(weight[index].double().sum()), 1e-30)


def image_features(
    image: PreparedImage, step: np.ndarray, derivative: bool, unit: str = "sample"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Smooth an image for samples ``step`` mm apart and compute its derivative magnitude.

    Args:
        step: distance of the samples along each axis, ``(D,)``, mm.
        unit: unit length of the derivative: ``"sample"``, the sample distance, or ``"voxel"``, the voxel size.

    Returns:
        intensity and, with ``derivative``, derivative magnitude of each channel in turn, ``(C, *voxels)``; and the weights of
        the voxels, ``(1, *voxels)``, eroded along axes without smoothing, or None without a mask.
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
        # along axes without smoothing, differences and interpolation reach one voxel beyond the border of the mask
        weight = _eroded(weight, [axis for axis, s in enumerate(sigma) if s == 0])
    if not derivative:
        return smooth, weight
    # dimensionless; per sample distance it is of the order of the intensities
    distance = image.grid.spacing if unit == "voxel" else step
    magnitude = derivative_magnitude(smooth, image.grid.affine[:-1, :-1]) * float(distance.min())
    return torch.stack((smooth, magnitude), 1).flatten(0, 1), weight


def _eroded(weight: torch.Tensor, axes: list[int]) -> torch.Tensor:
    """Return the smallest weight among neighbors along some axes, ignoring neighbors outside the image."""
    out = weight
    for axis in axes:
        before, after = out.narrow(axis + 1, 0, out.shape[axis + 1] - 1), out.narrow(axis + 1, 1, out.shape[axis + 1] - 1)
        lower = torch.minimum(before, after)
        out = out.clone()
        out.narrow(axis + 1, 0, lower.shape[axis + 1]).copy_(torch.minimum(before, lower))
        end = out.narrow(axis + 1, 1, lower.shape[axis + 1])
        end.copy_(torch.minimum(end, lower))
    return out
