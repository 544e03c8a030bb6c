# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The windows of a whole image: the grid of one loss, and two more kernels for the matrices of :mod:`.windows`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.utils import ensure_tuple_rep, look_up_option

from .base import check_positive
from .windows import BLOCK, AxisWindows, _Block, _chunks, random_shift

__all__ = ["BUDGET_MB", "ReplicatedBox", "SplineWindows", "WindowGrid", "per_mass", "slab_budget"]

BUDGET_MB = {"cpu": 8.0, "cuda": 128.0}  # maps of a slab: about the processor's cache; a GPU wants large launches
FLAT = 1e9  # voxels; a Gaussian so wide is a box where it is cut


@dataclass(frozen=True)
class WindowGrid:
    """Size, kernel and distance of the windows, one value per axis.

    Build it with :meth:`make`. In training the grid is shifted at random by up to half a stride, so that all voxels
    count equally; an axis with a window on every voxel needs none of it.
    """

    sigma: tuple[float, ...]
    truncated: float
    stride: tuple[float, ...]

    @classmethod
    def make(
        cls,
        dims: int,
        kernel_type: str,
        kernel_size: int,
        kernel_sigma: float | Sequence[float],
        truncated: float,
        stride: float | Sequence[float],
    ) -> WindowGrid:
        """The grid of a loss's options.

        Raises:
            ValueError: for an unknown kernel or options that are not positive.
        """
        size, sigma, step = (tuple(ensure_tuple_rep(x, dims)) for x in (kernel_size, kernel_sigma, stride))
        check_positive(kernel_size=size, kernel_sigma=sigma, stride=step, truncated=truncated)
        if look_up_option(kernel_type, ("rectangular", "gaussian")) == "gaussian":
            return cls(sigma, truncated, step)
        if len(set(size)) > 1 or size[0] % 2 != 1:
            raise ValueError(f"kernel_size must be one odd number for all axes, got {kernel_size}.")
        # cut a little outside, so that rounding leaves out no voxel
        return cls((FLAT,) * dims, (0.5 * size[0] - 1e-4) / FLAT, step)

    def axes(self, image: torch.Tensor, training: bool, generator: torch.Generator | None) -> list[AxisWindows]:
        """The windows along each spatial axis of an image ``(B, C, *spatial)``, on its device and in its dtype."""
        shift = torch.zeros(len(self.stride), dtype=torch.float64)
        if training:
            shift = torch.where(torch.tensor(self.stride) > 1, random_shift(self.stride, generator), 0)
        shift = shift.to(image.device, image.dtype, non_blocking=True)
        sizes = zip(image.shape[2:], self.sigma, self.stride, shift, strict=True)
        return [AxisWindows(n, sigma, step, self.truncated, s) for n, sigma, step, s in sizes]


def per_mass(maps: torch.Tensor, mass: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted averages of the voxels of each window, and which windows hold enough weight to count.

    Args:
        maps: window averages of weighted products, ``(G, P, *windows)``.
        mass: window averages of the weights, ``(G, 1, *windows)``.
        least: windows with less mass do not count.

    Returns:
        maps, divided by the mass where it counts; and ``(G, 1, *windows)`` bool.
    """
    counts = mass >= least
    return maps / torch.where(counts, mass, 1), counts


class SplineWindows(AxisWindows):
    """Cubic B-spline windows, four spacings long, which add up to one inside the image and are not normalised.

    As many centres as fit at a distance of ``spacing`` from one edge of the axis to the other, as a set in its middle:
    half a voxel outside the last voxels where the size is a multiple of the spacing.

    Args:
        size: voxels along the axis.
        spacing: distance of the centres, voxels.
        like: device and dtype of the matrix.
    """

    def __init__(self, size: int, spacing: int, like: torch.Tensor) -> None:
        self.size, self.count = size, size // spacing + 1
        self._stride, self._reach, self._slack = spacing, 2 * spacing, 2 * spacing
        self._first = (size - 1) / 2 - (self.count - 1) / 2 * spacing
        self._centres = self._first + spacing * torch.arange(self.count, device=like.device, dtype=like.dtype)
        self._norm = torch.ones_like(self._centres)
        self._forward = [self._block(rows, self._columns(rows)) for rows in _chunks(self.count, BLOCK)]
        self._adjoint = [self._block(self._rows(cols), cols, True) for cols in _chunks(size, BLOCK * spacing)]

    def _gaussian(self, distance: torch.Tensor) -> torch.Tensor:
        """The cubic B-spline in place of the Gaussian."""
        t = distance.abs() / self._stride
        return torch.where(t < 1, 2 / 3 - t.square() + t**3 / 2, (2 - t).clamp_min(0) ** 3 / 6)


class ReplicatedBox(AxisWindows):
    """Mean over ``2 radius + 1`` voxels around every voxel; the image goes on with its last value beyond the border.

    Args:
        size: voxels along the axis.
        radius: voxels on either side.
        like: device and dtype of the matrix.
    """

    def __init__(self, size: int, radius: int, like: torch.Tensor) -> None:
        self.size = self.count = size
        self._radius, self._like = radius, like
        chunks = _chunks(size, BLOCK + 8)
        self._forward = [self._block(rows, self._around(rows)) for rows in chunks]
        self._adjoint = [self._block(self._around(cols), cols, True) for cols in chunks]

    def _around(self, part: slice) -> slice:
        return slice(max(0, part.start - self._radius), min(self.size, part.stop + self._radius))

    def _block(self, rows: slice, cols: slice, transpose: bool = False) -> _Block:
        index = torch.arange(self.size, device=self._like.device)
        taps = torch.arange(-self._radius, self._radius + 1, device=self._like.device)
        seen = (index[rows, None] + taps).clamp(0, self.size - 1)
        weight = (seen[:, None] == index[cols, None]).to(self._like.dtype).sum(2) / len(taps)
        return _Block(rows, cols, weight.T.contiguous() if transpose else weight)


def slab_budget(device: torch.device, mebibytes: float | None) -> int:
    """Bytes that the maps of one slab may take."""
    return math.ceil((mebibytes or BUDGET_MB.get(device.type, BUDGET_MB["cpu"])) * 2**20)
