# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local measures of a result that tell where it is doubtful."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from ..geometry import Grid, inside, mapped_points, warp
from ..quality.samples import every_nth
from .pictures.planes import upright

if TYPE_CHECKING:
    from ..registration.result import RegistrationResult

__all__ = ["NUM_SAMPLES", "Evidence", "two_digits"]

NUM_SAMPLES = 2**17  # of the fixed voxels, about
CONTRAST_LENGTH = 0.05  # of the longest side of the field of view: side of the cubes that the contrast is measured in
MIN_RESIDUAL_RATIO = 4.0  # to the median over the anatomy
MIN_VOLUME_FACTOR = 1.5
MIN_INVERSE_VOXELS = 0.5  # of the fixed image
MIN_MISSING = 0.5  # probability
MAX_CONTRAST_RATIO = 1 / 3  # to the median over the anatomy
MAX_BORDER_VOXELS = 2.0  # of the moving image


@dataclass(frozen=True)
class Evidence:
    """Local measures on a regular subset of the voxels of an upright grid, each ``(*grid.shape)``, NaN where not known.

    Attributes:
        grid: positions of the samples.
        anatomy: bool, whether a sample lies in the anatomy.
        residual: local residual after the registration, relative to its median over the anatomy; None if not mapped.
        volume: factor by which the volume changes relative to its median, 1 or more; infinite where the field folds.
        inverse: distance between a point and its image there and back, in voxels of the fixed image.
        contrast: local contrast of the fixed image, relative to its median over the anatomy.
        border: distance of the mapped point to the border of the moving image's field of view in voxels of the moving image,
            negative outside.
        missing: probability that the moving image does not show the tissue; None if not estimated.
        voxel_mm: smallest voxel side of the fixed image.
    """

    grid: Grid
    anatomy: np.ndarray
    residual: np.ndarray | None
    volume: np.ndarray
    inverse: np.ndarray
    contrast: np.ndarray
    border: np.ndarray
    missing: np.ndarray | None
    voxel_mm: float

    @classmethod
    def of(
        cls,
        result: RegistrationResult,
        fixed: np.ndarray,
        anatomy: np.ndarray,
        determinant: np.ndarray,
        residual: np.ndarray | None,
    ) -> Evidence:
        """Measure a result.

        Args:
            result: registration result.
            fixed: fixed image in [0, 1], ``(*shape)``, upright, like the other arrays.
            anatomy: bool.
            determinant: Jacobian determinant, see :func:`monai_locor.metrics.jacobian_determinant`.
            residual: local residual, NaN where it is not known; or None.
        """
        forward, straight = upright(result.forward_mm, result.fixed_grid)
        cut, grid = every_nth(straight, NUM_SAMPLES)
        inner, where = cut[1:], anatomy[cut[1:]]
        field = torch.from_numpy(np.ascontiguousarray(forward[cut]))
        voxel = float(straight.spacing.min())
        missing = None if result.missing_fixed is None else upright(result.missing_fixed, result.fixed_grid)[0][0][inner]
        return cls(
            grid=grid,
            anatomy=where,
            residual=None if residual is None else _relative(residual[inner], where),
            volume=_volume_factor(determinant[inner], where),
            inverse=_inverse_mm(result, field, grid) / voxel,
            contrast=_relative(_contrast(fixed, straight)[inner], where),
            border=_border(mapped_points(grid, result.moving_grid, field), result.moving_grid),
            missing=missing,
            voxel_mm=voxel,
        )

    def doubt(self) -> np.ndarray:
        """How far a sample exceeds the limits of residual, volume change and inverse consistency, ``(*grid.shape)``.

        The highest ratio of a measure to its limit, or to its 99th percentile over the anatomy where that is more, so that no
        measure outweighs the others; NaN outside the anatomy and where no measure reaches its limit.
        """
        limits = [(self.residual, MIN_RESIDUAL_RATIO), (self.volume, MIN_VOLUME_FACTOR), (self.inverse, MIN_INVERSE_VOXELS)]
        highest = np.full(self.grid.shape, -math.inf)
        for values, limit in limits:
            if values is not None:
                bounded = np.minimum(np.nan_to_num(values, nan=-math.inf, posinf=1e6), 1e6)
                common = float(np.quantile(bounded[self.anatomy], 0.99)) if self.anatomy.any() else limit
                highest = np.maximum(highest, np.where(bounded >= limit, bounded / max(limit, common), -math.inf))
        return np.where(self.anatomy & np.isfinite(highest), highest, math.nan)

    def reasons(self, index: tuple[int, ...]) -> list[str]:
        """The measures that exceed their limits at a sample or beside it, in words, the most remarkable first."""
        found = []
        volume, inverse, border = self._highest(self.volume, index), self._highest(self.inverse, index), self.border[index]
        if volume >= MIN_VOLUME_FACTOR:
            text = f"volumes change by a factor of {two_digits(volume)}" if math.isfinite(volume) else "the transform folds"
            found.append((volume / MIN_VOLUME_FACTOR, text))
        if self.residual is not None and (residual := self._highest(self.residual, index)) >= MIN_RESIDUAL_RATIO:
            text = f"the images fit poorly (local residual {two_digits(residual)} times its median)"
            found.append((residual / MIN_RESIDUAL_RATIO, text))
        if inverse >= MIN_INVERSE_VOXELS:
            text = f"forward and inverse transform differ by {two_digits(inverse * self.voxel_mm)} mm"
            found.append((inverse / MIN_INVERSE_VOXELS, text))
        if self.missing is not None and (missing := self._highest(self.missing, index)) >= MIN_MISSING:
            found.append((10 * missing, f"the moving image may not show this tissue (probability {missing:.2f})"))
        if border <= MAX_BORDER_VOXELS:
            side = "outside" if border < 0 else "at the border of"
            found.append((math.inf, f"{side} the field of view of the moving image"))
        if self.contrast[index] <= MAX_CONTRAST_RATIO:
            found.append((1.0, "little contrast, so the images hardly determine the alignment"))
        return [text for _, text in sorted(found, key=lambda item: -item[0])]

    def _highest(self, values: np.ndarray, index: tuple[int, ...]) -> float:
        """The highest value at a sample and its neighbors; NaN if none is known."""
        near = values[tuple(slice(max(0, i - 1), i + 2) for i in index)]
        return float(np.nanmax(near)) if not np.isnan(near).all() else math.nan


def two_digits(value: float) -> str:
    """A number with two significant digits, or all before the point.

    >>> two_digits(0.123), two_digits(9.87), two_digits(123.4)
    ('0.12', '9.9', '123')
    """
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.2g}"


def _relative(values: np.ndarray, anatomy: np.ndarray) -> np.ndarray:
    """Values relative to their median over the anatomy."""
    known = values[anatomy & np.isfinite(values)]
    return values / max(float(np.median(known)) if known.size else 0.0, 1e-12)


def _volume_factor(determinant: np.ndarray, anatomy: np.ndarray) -> np.ndarray:
    middle = float(np.median(determinant[anatomy])) if anatomy.any() else 1.0
    ratio = np.maximum(determinant, 0) / max(middle, 1e-12)
    with np.errstate(divide="ignore"):
        return np.maximum(ratio, 1 / ratio)


def _inverse_mm(result: RegistrationResult, forward_mm: torch.Tensor, grid: Grid) -> np.ndarray:
    """Distance of the samples from their image there and back, mm; NaN outside the moving image."""
    inverse = torch.as_tensor(result.inverse_mm).detach().cpu().float()
    back = warp(inverse, result.moving_grid, forward_mm, grid, padding_mode="border")
    distance = (forward_mm + back).norm(dim=0).numpy()
    known = inside(mapped_points(grid, result.moving_grid, forward_mm), result.moving_grid.shape, margin=1.0).numpy()
    return np.where(known, distance, math.nan)


def _contrast(fixed: np.ndarray, grid: Grid) -> np.ndarray:
    """Standard deviation of an image in cubes, ``(*shape)``."""
    length = CONTRAST_LENGTH * float(grid.extent.max())
    sides = [2 * round(length / 2 / float(step)) + 1 for step in grid.spacing]
    mean, square = uniform_filter(fixed, sides), uniform_filter(fixed**2, sides)
    return np.sqrt(np.maximum(square - mean**2, 0))


def _border(points: torch.Tensor, grid: Grid) -> np.ndarray:
    """Distance of points ``(D, *any)``, voxels of a grid, to the border of its field of view, voxels; negative outside."""
    distances = [torch.minimum(p + 0.5, n - 0.5 - p) for p, n in zip(points, grid.shape, strict=True) if n > 1]
    return torch.stack(distances).amin(0).numpy()
