# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local quantities from which the registration error is estimated, from images and transform alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, inside, mapped_points, sample, separable, warp
from ..metrics.mutual_information import quantiles
from ..tensors import lengths, plain
from .local_shift import LocalShift, aligned_windows, local_shift
from .samples import MIN_VALID_SAMPLES

__all__ = ["FEATURES", "ErrorSamples", "LocalFeatures", "local_features"]

NUM_SAMPLES = 2**19  # of the fixed field of view, about
WINDOW_STEPS = 2.5  # standard deviation of the windows, and distance of the lattice's nodes, distances of the samples
LEVELS = 2  # the samples of each are twice as far apart as those of the level before
SMOOTHING = 0.7  # standard deviation of the filter before a coarser level, distances of its samples
INTENSITY_QUANTILES = (0.005, 0.995)
SOFT_LIMIT = 1.5  # largest normalized intensity
SMALLEST = 0.02  # added to lengths before the logarithm, distances of the samples

#: names of the local features; logarithms, lengths in distances of the samples
FEATURES = (
    *(
        f"{name}_{level}"
        for level in range(LEVELS)
        for name in ("deviation", "shift", "disagreement", "unexplained", "contrast")
    ),
    *("strain", "bending"),
)


@dataclass(frozen=True)
class ErrorSamples:
    """Both images at the nodes of an isotropic grid in the fixed field of view.

    Attributes:
        images: normalized intensities of the fixed and the warped moving image, ``(2, *grid)`` float32.
        weight: samples that count, 0 or 1, ``(*grid)`` float32.
        grid: positions, with the center and the axes of the fixed grid.
    """

    images: torch.Tensor
    weight: torch.Tensor
    grid: Grid

    @classmethod
    def of(
        cls,
        fixed: tuple[torch.Tensor, torch.Tensor | None, Grid],
        moving: tuple[torch.Tensor, torch.Tensor | None, Grid],
        forward_mm: torch.Tensor,
    ) -> ErrorSamples | None:
        """Sample both images.

        Args:
            fixed, moving: intensities and weights of the voxels, ``(1, *grid)``, and grid.
            forward_mm: displacement, ``(D, *fixed)``, RAS mm.

        Returns:
            None if fewer than :data:`MIN_VALID_SAMPLES` samples count, or an image is constant there.
        """
        grid = sample_grid(fixed[2])
        shift = warp(forward_mm, fixed[2], None, grid, padding_mode="border")
        points = mapped_points(grid, moving[2], shift).float()
        first = warp(plain(fixed[0]).to(shift), fixed[2], None, grid, padding_mode="border")[0]
        second = sample(plain(moving[0]).to(shift)[None], points[None], padding_mode="border")[0, 0]
        valid = inside(points, moving[2].shape, margin=-0.5) & first.isfinite() & second.isfinite()
        if fixed[1] is not None:
            valid &= warp(plain(fixed[1]).to(shift), fixed[2], None, grid, padding_mode="border")[0] > 0.5
        if moving[1] is not None:
            valid &= sample(plain(moving[1]).to(shift)[None], points[None], padding_mode="border")[0, 0] > 0.5
        if int(valid.sum()) < MIN_VALID_SAMPLES:
            return None
        ranges = [quantiles(values[valid].double(), INTENSITY_QUANTILES) for values in (first, second)]
        if any(not bool(high > low) for low, high in ranges):
            return None
        images = [_normalized(values, valid, *limits) for values, limits in zip((first, second), ranges, strict=True)]
        return cls(torch.stack(images), valid.float(), grid)

    def coarser(self, grid: Grid) -> ErrorSamples:
        """The smoothed images at the nodes of a coarser grid with the same center and axes."""
        windows = [
            w.to(self.images, non_blocking=True) for w in aligned_windows(self.grid, grid, SMOOTHING * float(grid.spacing[0]))
        ]
        mass = separable(windows, self.weight[None])[0]
        images = separable(windows, self.images * self.weight) / mass.clamp_min(1e-6)
        weight = (mass > 0.5).float()
        return ErrorSamples(images * weight, weight, grid)


def sample_grid(fixed: Grid) -> Grid:
    """An isotropic grid with about :data:`NUM_SAMPLES` nodes, no finer than the voxels."""
    size, voxel = (float(np.prod(x) ** (1 / fixed.dims)) for x in (fixed.extent, fixed.spacing))
    return fixed.resampled([max(size / NUM_SAMPLES ** (1 / fixed.dims), voxel)] * fixed.dims)


def _normalized(values: torch.Tensor, valid: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Map the robust range to [-1, 1]; zero where not valid."""
    scaled = ((values.double() - low) * (2 / (high - low)) - 1).clamp_(-SOFT_LIMIT, SOFT_LIMIT).float()
    return torch.where(valid, scaled, 0.0)


@dataclass(frozen=True)
class LocalFeatures:
    """The features on a lattice in the fixed field of view.

    Attributes:
        values: in the order of :data:`FEATURES`, ``(F, *lattice)`` float32.
        mass: share of the window of each node whose samples count, ``(*lattice)``.
        contrast: of the weaker image in the window of the coarsest level, ``(*lattice)``, in units of half the robust range.
        determinacy: standard deviation that the images leave relative to that of the prior, in [0, 1], of the coarsest level.
        lattice: positions of the nodes.
        samples: the samples.
    """

    values: torch.Tensor
    mass: torch.Tensor
    contrast: torch.Tensor
    determinacy: torch.Tensor
    lattice: Grid
    samples: ErrorSamples


def local_features(samples: ErrorSamples, fixed: Grid, forward_mm: torch.Tensor) -> LocalFeatures:
    """Compute the features.

    Args:
        samples: both images.
        fixed: fixed grid.
        forward_mm: displacement, ``(D, *fixed)``, RAS mm.
    """
    step = float(samples.grid.spacing[0])
    lattice = fixed.resampled([WINDOW_STEPS * step] * fixed.dims)
    found: list[torch.Tensor] = []
    level, masses = samples, []
    for number in range(LEVELS):
        spacing = step * 2**number
        if number:
            level = level.coarser(fixed.resampled([spacing] * fixed.dims))
        fits = _both_directions(level, lattice, WINDOW_STEPS * spacing)
        found += _of_fits(fits, step)
        masses.append(fits[0].mass)
    values = torch.stack([*found, *_of_field(forward_mm, fixed, lattice)])
    weaker = torch.minimum(fits[0].contrast, fits[1].contrast)
    left = torch.stack([f.deviation for f in fits]).square().mean(0).sqrt() / (2 * spacing * math.sqrt(fixed.dims))
    return LocalFeatures(values, masses[0], weaker, left, lattice, samples)


def _both_directions(level: ErrorSamples, lattice: Grid, sigma: float) -> tuple[LocalShift, LocalShift]:
    """Fit each image by the other one; the second shift is that of the fixed image."""
    fixed, moving = level.images
    where = level.weight, level.grid, lattice, sigma
    return local_shift(fixed, moving, *where), local_shift(moving, fixed, *where)


def _of_fits(fits: Sequence[LocalShift], step: float) -> list[torch.Tensor]:
    """The features of one level."""
    first, second = fits
    deviation = torch.stack([f.deviation for f in fits]).square().mean(0).sqrt()
    apart, mean = lengths(first.shift + second.shift), lengths((first.shift - second.shift) / 2)
    unexplained = torch.stack([f.unexplained for f in fits]).mean(0)
    contrast = (first.contrast * second.contrast).clamp_min(1e-6).sqrt()
    return [*(_log_length(x, step) for x in (deviation, mean, apart)), unexplained.clamp_min(1e-4).log(), contrast.log()]


def _log_length(values: torch.Tensor, step: float) -> torch.Tensor:
    return (values / step + SMALLEST).log()


def _of_field(forward_mm: torch.Tensor, fixed: Grid, lattice: Grid) -> list[torch.Tensor]:
    """Strain and bending of the transform, without its affine part, over the distance of the nodes."""
    shift = warp(forward_mm, fixed, None, lattice, padding_mode="border")
    first = _gradients(shift)
    whole = first.mean(tuple(range(1, first.ndim)), keepdim=True)
    second = _gradients(first)
    spacing = float(lattice.spacing[0])
    strain, bending = (x.square().sum(0).sqrt() / spacing for x in (first - whole, second))
    return [(x + SMALLEST).log() for x in (strain, bending)]


def _gradients(values: torch.Tensor) -> torch.Tensor:
    """Differences of neighbors of ``(C, *lattice)`` along all axes, ``(C * D, *lattice)``; zero along short axes."""
    found = [
        torch.gradient(values, dim=axis)[0] if values.shape[axis] > 1 else torch.zeros_like(values)
        for axis in range(1, values.ndim)
    ]
    return torch.cat(found)
