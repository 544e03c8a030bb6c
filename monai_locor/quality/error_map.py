# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The estimated registration error of every voxel of the fixed image, with an interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..geometry import Grid, inside, sample
from ..geometry.steps import world_to_voxels
from ..metrics.mutual_information import quantiles
from ..tensors import as_tensor

__all__ = ["COVERAGE", "ERROR_CHANNELS", "ErrorMap", "PointErrors"]

COVERAGE = 0.9  # nominal share of the true errors inside the interval
ERROR_CHANNELS = ("expected", "low", "high")
MIN_DETERMINED = 0.5  # interpolation weight of determined voxels, for a point to be determined


class PointErrors(NamedTuple):
    """The estimated error at N points.

    Attributes:
        expected_mm, low_mm, high_mm: ``(N,)`` float32, mm; NaN where not determined.
        determined: ``(N,)`` bool.
    """

    expected_mm: torch.Tensor
    low_mm: torch.Tensor
    high_mm: torch.Tensor
    determined: torch.Tensor


@dataclass(frozen=True, eq=False)
class ErrorMap:
    """Expected registration error and a 90 % interval for every voxel of the fixed image.

    The error of a voxel is the distance between the point that it is mapped to and its true position in the moving image. In
    voxels that are not determined, the images hold no information about it: expected error and interval are NaN there. See
    :func:`.error_estimate.estimate_error`.

    Attributes:
        expected_mm: expected error, ``(*fixed)`` float32, mm.
        low_mm, high_mm: 5th and 95th percentile of the error, ``(*fixed)`` float32, mm.
        grid: grid of the fixed image.
    """

    expected_mm: torch.Tensor
    low_mm: torch.Tensor
    high_mm: torch.Tensor
    grid: Grid

    @property
    def determined(self) -> torch.Tensor:
        """Voxels whose error can be estimated, ``(*fixed)`` bool."""
        return self.expected_mm.isfinite()

    def at(self, points_mm: torch.Tensor | np.ndarray) -> PointErrors:
        """The estimated error at points of the fixed image, by linear interpolation between determined voxels.

        Args:
            points_mm: ``(N, D)``, RAS mm.

        Raises:
            ValueError: for another shape.
        """
        points = as_tensor(points_mm).double()
        if points.ndim != 2 or points.shape[1] != self.grid.dims:
            raise ValueError(f"points must be (N, {self.grid.dims}), got {tuple(points.shape)}")
        where = world_to_voxels(points, self.grid)
        determined = self.determined
        values = torch.stack((*(x.nan_to_num(0.0) for x in self._maps()), determined.float()))
        *found, weight = sample(values[None], where.float()[None], padding_mode="border")[0]
        known = (weight > MIN_DETERMINED) & inside(where, self.grid.shape, margin=-0.5)
        expected, low, high = (torch.where(known, x / weight, torch.nan) for x in found)
        return PointErrors(expected, low, high, known)

    def summary(self) -> dict[str, float | None]:
        """Median and 95th percentile of the expected error, mm, None if nothing is determined, and the determined share, %."""
        known = self.expected_mm[self.determined]
        median, high = (round(float(x), 4) for x in quantiles(known, (0.5, 0.95))) if len(known) else (None, None)
        return {"median": median, "p95": high, "determined_percent": round(100 * len(known) / self.expected_mm.numel(), 2)}

    def channels(self) -> torch.Tensor:
        """Expected error, lower and upper bound, ``(3, *fixed)`` float32, mm, NaN where not determined."""
        return torch.stack(self._maps())

    def to(self, device: torch.device | str) -> ErrorMap:
        """Copy to a device; the map itself if it is there."""
        if self.expected_mm.device == torch.device(device):
            return self
        return ErrorMap.of_channels(self.channels().to(device), self.grid)

    @classmethod
    def of_channels(cls, channels: torch.Tensor, grid: Grid) -> ErrorMap:
        """From :meth:`channels`.

        Raises:
            ValueError: if there are not three channels on the grid.
        """
        if tuple(channels.shape) != (len(ERROR_CHANNELS), *grid.shape):
            raise ValueError(
                f"an error map on {grid.shape} is {(len(ERROR_CHANNELS), *grid.shape)}, got {tuple(channels.shape)}"
            )
        expected, low, high = channels
        return cls(expected, low, high, grid)

    def _maps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.expected_mm, self.low_mm, self.high_mm
