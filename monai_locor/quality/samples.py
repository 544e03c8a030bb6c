# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A regular subset of the voxels of both images, on which similarity is measured independently of the optimization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, apply_affine, inside, mapped_points, sample, slabs
from ..geometry.partition import voxels_per_slab
from ..metrics import normalized_mutual_information
from ..tensors import on_device, plain

__all__ = ["MIN_VALID_SAMPLES", "NUM_SAMPLES", "Reading", "SampledPair", "every_nth", "mutual_information"]

NUM_SAMPLES = 2**17  # of the fixed image, about
MIN_VALID_SAMPLES = 500  # fewer are too few for a histogram
UNITS_PER_VIEW = {2: 2**14, 3: 2**17}  # by number of axes: a field of view has this many cubes with a side of one unit
HISTOGRAM_BINS = (8, 32)  # fewest and most

Reading = tuple[torch.Tensor, torch.Tensor]  # intensities of the moving image, and whether they are valid


@dataclass(frozen=True)
class SampledPair:
    """A regular subset of the fixed voxels, and the moving image to be sampled at the corresponding points.

    Attributes:
        fixed: intensities, ``(*grid)`` float64, on the device of the transform, like all tensors.
        valid: ``(*grid)`` bool: finite, and inside the fixed mask.
        grid: positions of the samples.
        fixed_shape: shape of the fixed image.
        unit: unit of length for blocks and shifts, mm: see :data:`UNITS_PER_VIEW`, but not less than a voxel.
        moving: ``(1, C, *moving_grid)``: intensities, and weights if there are any.
        moving_grid: grid of the moving image.
        points: the samples mapped by the transform, ``(D, *grid)`` float32, voxels of the moving grid.
    """

    fixed: torch.Tensor
    valid: torch.Tensor
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
    ) -> SampledPair:
        """Take every n-th voxel along each axis, about :data:`NUM_SAMPLES` in all.

        Args:
            fixed, fixed_weight: ``(1, *fixed_grid)``.
            fixed_grid, moving_grid: grids of the images.
            moving, moving_weight: ``(1, *moving_grid)``.
            forward_mm: displacement, ``(D, *fixed_grid)``, RAS mm.
        """
        cut, grid = every_nth(fixed_grid, NUM_SAMPLES)
        device = forward_mm.device
        values = plain(fixed)[cut][0].detach().to(device).double()
        valid = values.isfinite()
        if fixed_weight is not None:
            valid &= plain(fixed_weight)[cut][0].to(device) > 0
        channels = [plain(x).detach().to(device).float() for x in (moving, moving_weight) if x is not None]
        points = mapped_points(grid, moving_grid, plain(forward_mm)[cut].detach()).float()
        size, voxels = np.prod(fixed_grid.extent), np.prod(fixed_grid.shape)
        unit = float((size / min(UNITS_PER_VIEW[grid.dims], voxels)) ** (1 / grid.dims))
        stacked = channels[0] if len(channels) == 1 else torch.cat(channels)
        return cls(values, valid, grid, fixed_grid.shape, unit, stacked[None], moving_grid, points)

    def read(self, offset_mm: np.ndarray | None = None) -> Reading:
        """Sample the moving image, ``(*grid)`` each.

        Args:
            offset_mm: shift added to the points, ``(D,)``, RAS mm.
        """
        values, valid = self.read_shifted(np.zeros((1, self.grid.dims)) if offset_mm is None else offset_mm[None])
        return values[0], valid[0]

    def read_shifted(self, offsets_mm: np.ndarray) -> Reading:
        """Sample the moving image with several shifts of the points, ``(K, *grid)`` each.

        Args:
            offsets_mm: shifts, ``(K, D)``, RAS mm.
        """
        shifts = on_device(np.linalg.inv(self.moving_grid.affine[:-1, :-1]) @ offsets_mm.T, self.points)
        shifts = shifts.reshape(*shifts.shape, *[1] * self.grid.dims)
        # all shifts of a few samples at once, so that the voxels around them stay in the cache
        rows = slabs(self.grid.shape, voxels_per_slab(self.points.device) // len(offsets_mm))
        shape = (len(offsets_mm), *self.grid.shape)
        values, valid = (
            torch.empty(shape, dtype=dtype, device=self.points.device) for dtype in (self.moving.dtype, torch.bool)
        )
        for part in rows:
            values[:, part], valid[:, part] = self._read(self.points[:, None, part] + shifts, self.valid[part])
        return values, valid

    def _read(self, points: torch.Tensor, counted: torch.Tensor) -> Reading:
        """Sample at ``(D, *any)``, voxels of the moving grid; valid only where ``counted``, which is broadcast."""
        values = sample(self.moving, points[None], padding_mode="border")[0]
        valid = inside(points, self.moving_grid.shape, margin=-0.5) & values.isfinite().all(0) & counted
        if len(values) > 1:
            valid &= values[1] > 0.5
        return values[0], valid

    def read_affine(self, affine: np.ndarray) -> Reading:
        """Sample the moving image through an affine instead of the transform.

        Args:
            affine: ``(D + 1, D + 1)``, fixed to moving points, RAS mm.
        """
        moved = Grid(self.grid.shape, affine @ self.grid.affine)
        points = mapped_points(moved, self.moving_grid, device=self.points.device)
        return self._read(points.float(), self.valid)


def every_nth(grid: Grid, count: int) -> tuple[tuple[slice, ...], Grid]:
    """Slices of ``(C, *grid)`` that leave about ``count`` voxels, as isotropic as possible, and the grid of these voxels."""
    steps = np.ones(grid.dims, int)
    while np.prod(np.ceil(np.array(grid.shape) / steps)) > 1.5 * count:
        steps[int(np.argmin(grid.spacing * steps))] += 1
    cut = tuple(slice((n - 1) % int(s) // 2, None, int(s)) for n, s in zip(grid.shape, steps, strict=True))
    affine = grid.affine.copy()
    affine[:-1, -1] = apply_affine(grid.affine, np.array([float(c.start) for c in cut]))
    affine[:-1, :-1] *= steps
    shape = tuple(len(range(*c.indices(n))) for c, n in zip(cut, grid.shape, strict=True))
    return (slice(None), *cut), Grid(shape, affine)


def mutual_information(pair: SampledPair, readings: Sequence[Reading], max_samples: int = NUM_SAMPLES) -> list[float]:
    """NMI of the fixed image with each reading, over the samples that are valid in all readings.

    Args:
        pair: sampled images.
        readings: of :meth:`SampledPair.read`.
        max_samples: largest number of samples to use.

    Returns:
        one value per reading, NaN if there are fewer than :data:`MIN_VALID_SAMPLES` samples.
    """
    common = torch.stack([valid for _, valid in readings]).all(0)
    first = pair.fixed[common]
    if len(first) < MIN_VALID_SAMPLES:
        return [math.nan] * len(readings)
    every = -(-len(first) // max_samples)
    bins = int(np.clip(round(float(len(first) // every) ** (1 / 3)), *HISTOGRAM_BINS))
    return [normalized_mutual_information(first[::every], values[common][::every], bins=bins) for values, _ in readings]
