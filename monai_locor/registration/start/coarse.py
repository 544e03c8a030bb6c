# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Low-resolution versions of images with few gray levels, for the multi-start search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ...geometry import Grid, apply_affine, sample_normalized, to_normalized
from ...tensors import on_device
from .prepare import SOFT_LIMITS, PreparedImage

__all__ = ["CoarseImage"]


@dataclass(frozen=True)
class CoarseImage:
    """A low-resolution version of an image.

    Attributes:
        channels: ``(2, *grid.shape)``: gray level, 0 to ``levels - 1``, times weight; weight.
        grid: of the channels.
        levels: number of gray levels.
    """

    channels: torch.Tensor
    grid: Grid
    levels: int

    @classmethod
    def of(cls, image: PreparedImage, size_mm: float, levels: int) -> CoarseImage:
        """Average the first channel over blocks of about ``size_mm`` or one voxel, whichever is larger.

        Args:
            image: image at full resolution.
            size_mm: side of the blocks.
            levels: number of gray levels.
        """
        grid, first = image.grid, image.image[:1]
        size = [min(n, max(1, round(size_mm / s))) for n, s in zip(grid.shape, grid.spacing, strict=True)]
        pool = F.avg_pool3d if grid.dims == 3 else F.avg_pool2d
        if image.weight is None:
            mean = pool(first, size)
            mass = torch.ones_like(mean)
        else:
            mass = pool(image.weight, size)
            mean = pool(first * image.weight, size) / mass.clamp_min(1e-6)
        level = _levels(mean, mass, levels)
        affine = grid.affine @ np.diag([*size, 1.0])
        affine[:-1, -1] = apply_affine(grid.affine, (np.array(size) - 1) / 2)
        return cls(torch.cat((level * mass, mass)), Grid(tuple(mass.shape[1:]), affine), levels)

    def at(self, to_world: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Return the fraction of every gray level times the weight, ``(B, N, levels)``.

        Args:
            to_world: matrices ``(B, D + 1, D + 1)`` float64, from points to world mm.
            points: sample points, ``(N, D)``.
        """
        dims = self.grid.dims
        scale, offset = to_normalized(self.grid.shape)
        normalizing = np.diag([*scale, 1.0])
        normalizing[:-1, -1] = offset
        matrix = (on_device(normalizing @ np.linalg.inv(self.grid.affine), to_world) @ to_world).float()
        where = points @ matrix[:, :dims, :dims].mT + matrix[:, None, :dims, dims]
        sampled = sample_normalized(self.channels.expand(len(matrix), *self.channels.shape), where.flip(-1))
        level, weight = sampled[:, 0] / sampled[:, 1].clamp_min(1e-3), sampled[:, 1]
        levels = torch.arange(self.levels, device=level.device)
        return (1 - (level[..., None] - levels).abs()).clamp_min(0) * weight[..., None]


def _levels(values: torch.Tensor, weight: torch.Tensor, count: int) -> torch.Tensor:
    """Map intensities to gray levels 0 ... ``count - 1``, a compromise between equal steps and equal counts.

    The density of levels is proportional to the cube root of that of the intensities, which minimizes the quantization error
    (Panter and Dite 1951, doi 10.1109/JRPROC.1951.230419): air is assigned little more than one level, the soft tissue of a
    CT, a fortieth of the range, several.
    """
    low, high = SOFT_LIMITS
    counts = torch.histc(values[weight > 0.5], 256, low, high)
    curve = F.pad(counts.pow(1 / 3).cumsum(0), (1, 0))
    curve = curve / curve[-1].clamp_min(1e-12) * (count - 1)
    position = ((values - low) / (high - low) * 256).clamp(0, 256 - 1e-3)
    index = position.long()
    return torch.lerp(curve[index], curve[index + 1], position - index)
