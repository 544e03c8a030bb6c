# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The window grid of a loss, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from monai.utils import ensure_tuple_rep, look_up_option

from ..recent import Recent
from .options import check_positive
from .windows import BandedMatrix, WindowPlan, random_shift

__all__ = ["WindowGrid"]

BOX_SIGMA_VOXELS = 1e9  # a Gaussian this wide, truncated, is a box
MIN_WINDOWS_PER_AXIS = 4  # unless the axis has fewer voxels


@dataclass(frozen=True)
class WindowGrid:
    """Size, kernel and distance of the windows, one value per axis.

    Build it with :meth:`make`. In training the grid is shifted at random by up to half a stride, so that all voxels
    count equally. Everything that does not depend on the shift is kept for the most recent image sizes.

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
        """Make the grid from the options of a loss.

        Raises:
            ValueError: for an unknown kernel or options that are not positive.
        """
        size, sigma, step = (tuple(ensure_tuple_rep(x, dims)) for x in (kernel_size, kernel_sigma, stride))
        check_positive(kernel_size=size, kernel_sigma=sigma, stride=step, truncated=truncated)
        if look_up_option(kernel_type, ("rectangular", "gaussian")) == "gaussian":
            return cls(sigma, truncated, step)
        if len(set(size)) > 1 or size[0] % 2 != 1:
            raise ValueError(f"kernel_size must be one odd number for all axes, got {kernel_size}.")
        # ends well beyond the outermost voxel center, so that rounding drops no voxel
        return cls((BOX_SIGMA_VOXELS,) * dims, (0.5 * size[0] - 1e-4) / BOX_SIGMA_VOXELS, step)

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

        A short axis has four windows at a smaller distance, or one per voxel. With only one or two windows, the value of a
        small volume in training would depend mostly on their random shift.
        """
        return tuple(min(step, max(1.0, n / MIN_WINDOWS_PER_AXIS)) for step, n in zip(self.stride, shape, strict=True))

    def _plan(self, axis: int, size: int, stride: float, image: torch.Tensor) -> WindowPlan:
        key = size, self.sigma[axis], stride, self.truncated, image.device, image.dtype
        return self.plans.get(key, lambda: WindowPlan.gaussian(*key))
