# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The windows of a whole image: the grid of one loss, and the box for :mod:`.windows`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from monai.utils import ensure_tuple_rep, look_up_option

from ..recent import Recent
from .base import check_positive
from .windows import BLOCK, BandedMatrix, Block, WindowPlan, _chunks, random_shift

__all__ = ["BUDGET_MB", "ReplicatedBox", "WindowGrid", "enough", "per_mass", "slab_budget"]

# of a call's working memory: on a CPU the slabs then stay in the processor's cache; a GPU wants large launches
BUDGET_MB = {"cpu": 20.0, "cuda": 2048.0}
FLAT = 1e9  # voxels; a Gaussian so wide is a box where it is cut
FEWEST = 4  # windows along an axis, unless it has fewer voxels
ROUNDING = 1e-5  # share of a window's mass that float32 may lose


@dataclass(frozen=True)
class WindowGrid:
    """Size, kernel and distance of the windows, one value per axis.

    Build it with :meth:`make`. In training the grid is shifted at random by up to half a stride, so that all voxels
    count equally. What does not depend on the shift is kept for the last few image sizes.

    Attributes:
        sigma: standard deviation, voxels.
        truncated: where the window ends, in standard deviations.
        stride: distance between windows, voxels.
        every: whether an axis with a window on every voxel is shifted as well.
    """

    sigma: tuple[float, ...]
    truncated: float
    stride: tuple[float, ...]
    every: bool = False
    plans: Recent[WindowPlan] = field(default_factory=lambda: Recent(24), compare=False, repr=False)

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

    def axes(self, image: torch.Tensor, training: bool, generator: torch.Generator | None) -> list[BandedMatrix]:
        """The windows along each spatial axis of an image ``(B, C, *spatial)``, on its device and in its dtype."""
        stride = self.strides(image.shape[2:])
        plans = [self._plan(axis, n, stride[axis], image) for axis, n in enumerate(image.shape[2:])]
        moving = [training and (self.every or step > 1) for step in stride]
        if not any(moving):
            return [plan.centered for plan in plans]
        shift = random_shift(stride, generator).to(image.device, image.dtype, non_blocking=True)
        return [plan.shifted(s) if m else plan.centered for plan, s, m in zip(plans, shift, moving, strict=True)]

    def strides(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Distance of the windows along each axis of this many voxels.

        A short axis has its windows closer together, four of them or one for every voxel. With one or two, a small volume
        would be judged by a few windows, and its value in training by little else than their random shift.
        """
        return tuple(min(step, max(1.0, n / FEWEST)) for step, n in zip(self.stride, shape, strict=True))

    def _plan(self, axis: int, size: int, stride: float, image: torch.Tensor) -> WindowPlan:
        key = size, self.sigma[axis], stride, self.truncated, image.device, image.dtype
        return self.plans.get(key, lambda: WindowPlan.gaussian(*key))


def enough(mass: torch.Tensor, least: float) -> torch.Tensor:
    """Which windows hold enough weight to count, bool; what rounding takes from a window does not count against it."""
    return mass >= least * (1 - ROUNDING)


def per_mass(maps: torch.Tensor, mass: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted averages of the voxels of each window, and which windows hold enough weight to count.

    Args:
        maps: window averages of weighted products, ``(G, P, *windows)``.
        mass: window averages of the weights, ``(G, 1, *windows)``.
        least: windows with less mass do not count.

    Returns:
        maps, divided by the mass where it counts; and ``(G, 1, *windows)`` bool.
    """
    counts = enough(mass, least)
    return maps / torch.where(counts, mass, 1), counts


class ReplicatedBox(BandedMatrix):
    """Mean over ``2 radius + 1`` voxels around every voxel; the image goes on with its last value beyond the border.

    Args:
        size: voxels along the axis.
        radius: voxels on either side.
        device, dtype: of the matrix.
    """

    def __init__(self, size: int, radius: int, device: torch.device, dtype: torch.dtype) -> None:
        index = torch.arange(size, device=device)
        taps = torch.arange(-radius, radius + 1, device=device)

        def around(part: slice) -> slice:
            return slice(max(0, part.start - radius), min(size, part.stop + radius))

        def block(rows: slice, cols: slice, transposed: bool = False) -> Block:
            seen = (index[rows, None] + taps).clamp(0, size - 1)
            weight = (seen[:, None] == index[cols, None]).to(dtype).sum(2) / len(taps)
            return Block(rows, cols, weight.T.contiguous() if transposed else weight)

        chunks = _chunks(size, BLOCK + 8)
        forward = [block(rows, around(rows)) for rows in chunks]
        super().__init__(size, size, forward, [block(around(cols), cols, True) for cols in chunks])


def slab_budget(device: torch.device, mebibytes: float | None) -> int:
    """Bytes of working memory that a call may hold."""
    return math.ceil((mebibytes or BUDGET_MB.get(device.type, BUDGET_MB["cpu"])) * 2**20)
