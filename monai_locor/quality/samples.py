# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A part of the voxels of both images, on which a verdict measures what was not optimized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, apply_affine, inside, mapped_points, sample, to_voxels
from ..metrics import normalized_mutual_information
from ..tensors import plain

__all__ = ["FEWEST", "SAMPLES", "Reading", "Samples", "every_nth", "mutual_information"]

SAMPLES = 2**17  # of the fixed image, about
FEWEST = 500  # that say anything
UNIT = {2: 2**14, 3: 2**17}  # by the number of axes: so many points over the field of view have the unit of length between them
BINS = (8, 32)  # of the joint histogram, fewest and most

Reading = tuple[np.ndarray, np.ndarray]  # intensities of the moving image, and where they count


@dataclass(frozen=True)
class Samples:
    """A regular part of the fixed voxels, and the moving image to be read where they go.

    Attributes:
        fixed: ``(*grid)`` intensities.
        counts: ``(*grid)`` bool: finite, and inside the fixed mask.
        grid: where the samples lie.
        fixed_shape: of the fixed image.
        unit: of length for blocks and displacements, mm: see :data:`UNIT`, but no less than a voxel.
        moving: ``(1, C, *moving_grid)``, intensities and, if there are weights, those.
        points: where the result takes the samples, ``(D, *grid)`` float32, voxels of the moving grid.
    """

    fixed: np.ndarray
    counts: np.ndarray
    grid: Grid
    fixed_shape: tuple[int, ...]
    unit: float
    moving: torch.Tensor
    moving_grid: Grid
    points: torch.Tensor

    @classmethod
    def of(
        cls,
        fixed: torch.Tensor,
        fixed_grid: Grid,
        moving: torch.Tensor,
        moving_grid: Grid,
        forward_mm: torch.Tensor,
        fixed_weight: torch.Tensor | None = None,
        moving_weight: torch.Tensor | None = None,
    ) -> Samples:
        """Every n-th voxel along each axis, so that about :data:`SAMPLES` are left.

        Args:
            fixed, fixed_weight: ``(1, *fixed_grid)``; moving, moving_weight: ``(1, *moving_grid)``.
            forward_mm: ``(D, *fixed_grid)`` RAS mm.
        """
        cut, grid = every_nth(fixed_grid, SAMPLES)
        values = plain(fixed)[cut][0].detach().cpu().double().numpy()
        counts = np.isfinite(values)
        if fixed_weight is not None:
            counts &= plain(fixed_weight)[cut][0].cpu().numpy() > 0
        channels = [plain(x).detach().cpu().float() for x in (moving, moving_weight) if x is not None]
        points = mapped_points(grid, moving_grid, plain(forward_mm)[cut].detach().cpu()).float()
        size, voxels = np.prod(fixed_grid.extent), np.prod(fixed_grid.shape)
        unit = float((size / min(UNIT[grid.dims], voxels)) ** (1 / grid.dims))
        return cls(values, counts, grid, fixed_grid.shape, unit, torch.cat(channels)[None], moving_grid, points)

    def read(self, offset_mm: np.ndarray | None = None, points: torch.Tensor | None = None) -> Reading:
        """The moving image at the samples, each ``(*grid)``.

        Args:
            offset_mm: ``(D,)``, RAS mm, by which they are displaced.
            points: where they go instead of where the result takes them.
        """
        where = self.points if points is None else points
        if offset_mm is not None:
            where = where + to_voxels(torch.from_numpy(offset_mm).float(), self.moving_grid).reshape(-1, *[1] * self.grid.dims)
        values = sample(self.moving, where[None], padding_mode="border")[0]
        counts = inside(where, self.moving_grid.shape, margin=-0.5) & values.isfinite().all(0)
        if len(values) > 1:
            counts &= values[1] > 0.5
        return values[0].numpy(), counts.numpy() & self.counts

    def read_initial(self, affine: np.ndarray) -> Reading:
        """The same where a matrix takes them, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm."""
        moved = Grid(self.grid.shape, affine @ self.grid.affine)
        return self.read(points=mapped_points(moved, self.moving_grid).float())


def every_nth(grid: Grid, count: int) -> tuple[tuple[slice, ...], Grid]:
    """Slices of ``(C, *grid)`` that leave about ``count`` voxels, as evenly spaced as can be, and the grid of these."""
    steps = np.ones(grid.dims, int)
    while np.prod(np.ceil(np.array(grid.shape) / steps)) > 1.5 * count:
        steps[int(np.argmin(grid.spacing * steps))] += 1
    cut = tuple(slice((n - 1) % int(s) // 2, None, int(s)) for n, s in zip(grid.shape, steps, strict=True))
    affine = grid.affine.copy()
    affine[:-1, -1] = apply_affine(grid.affine, np.array([float(c.start) for c in cut]))
    affine[:-1, :-1] *= steps
    shape = tuple(len(range(*c.indices(n))) for c, n in zip(cut, grid.shape, strict=True))
    return (slice(None), *cut), Grid(shape, affine)


def mutual_information(samples: Samples, readings: Sequence[Reading], most: int = SAMPLES) -> list[float]:
    """NMI of the fixed image with each of several readings, all over the samples that count in every one of them.

    Args:
        most: so many of these samples are enough.
    """
    common = np.logical_and.reduce([counts for _, counts in readings])
    number = int(common.sum())
    if number < FEWEST:
        return [math.nan] * len(readings)
    every = -(-number // most)
    bins = int(np.clip(round(float(number // every) ** (1 / 3)), *BINS))
    first = torch.from_numpy(samples.fixed[common][::every])
    return [normalized_mutual_information(first, torch.from_numpy(v[common][::every]), bins=bins) for v, _ in readings]
