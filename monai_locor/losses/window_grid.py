# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The window grid of a loss, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from monai.utils import ensure_tuple_rep, look_up_option

from ..recent import Recent
from .banded import BandedMatrix
from .options import check_positive
from .windows import GridPlan, WindowPlan, random_shift

__all__ = ["StaticWindows", "WindowGrid"]

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
    plans: Recent[GridPlan] = field(default_factory=lambda: Recent(8), compare=False, repr=False)

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
        shape = tuple(image.shape[2:])
        plan = self.plan(shape, training, image.device, image.dtype)
        if not any(self._moving(shape, training)):
            return [*plan.centered]
        return [*plan.shifted(random_shift(self.strides(shape), generator))]

    def static(
        self,
        shape: Sequence[int],
        training: bool,
        device: torch.device,
        dtype: torch.dtype,
        generator: torch.Generator | None,
    ) -> StaticWindows | None:
        """The windows of images of one shape in a buffer on the device; None if they do not move."""
        if not any(self._moving(shape, training)):
            return None
        plan = self.plan(tuple(shape), training, device, dtype)
        return StaticWindows(plan, tuple(shape), self.strides(shape), generator)

    def plan(self, shape: tuple[int, ...], training: bool, device: torch.device, dtype: torch.dtype) -> GridPlan:
        """The windows of images of a shape without their shift."""
        strides, moving = self.strides(shape), self._moving(shape, training)

        def make() -> GridPlan:
            options = zip(shape, self.sigma, strides, strict=True)
            axes = [WindowPlan.gaussian(size, sigma, stride, self.truncated) for size, sigma, stride in options]
            return GridPlan(axes, moving, device, dtype)

        # the options of a loss may be changed between calls
        return self.plans.get((shape, self.sigma, strides, self.truncated, moving, device, dtype), make)

    def _moving(self, shape: Sequence[int], training: bool) -> tuple[bool, ...]:
        """Whether the windows of each axis are shifted."""
        return tuple(training and (self.every or step > 1) for step in self.strides(shape))

    def strides(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Distance of the windows along each axis of this many voxels.

        A short axis has four windows at a smaller distance, or one per voxel. With only one or two windows, the value of a
        small volume in training would depend mostly on their random shift.
        """
        return tuple(min(step, max(1.0, n / MIN_WINDOWS_PER_AXIS)) for step, n in zip(self.stride, shape, strict=True))


class StaticWindows:
    """The randomly shifted windows of images of one shape, in memory that stays in place.

    For a call that is recorded once and replayed, as in a CUDA graph: :meth:`draw` before each replay changes the values of
    the buffer, from which the recorded operations make the matrices. See :meth:`.base.PairLoss.static_windows`.

    Args:
        plan: the windows without their shift.
        shape: of the images, without batch and channels.
        strides: distance of the windows along each axis, voxels.
        generator: CPU random generator of the shift; None for torch's global one.

    Attributes:
        buffer: the weights of all windows, on the device.
    """

    def __init__(
        self, plan: GridPlan, shape: tuple[int, ...], strides: Sequence[float], generator: torch.Generator | None
    ) -> None:
        self.plan, self.shape, self.strides, self.generator = plan, shape, strides, generator
        self.buffer = plan.table(None).to(plan.device, non_blocking=True)

    def draw(self) -> None:
        """Draw the next shift on the host and write its windows to the buffer: one copy, which does not wait."""
        self.buffer.copy_(self.plan.table(random_shift(self.strides, self.generator)), non_blocking=True)

    def axes(self, image: torch.Tensor) -> list[BandedMatrix]:
        """The windows along each axis of an image ``(B, C, *spatial)``.

        Raises:
            ValueError: if they were made for another shape, device or dtype.
        """
        made, asked = (self.shape, self.plan.device, self.plan.dtype), (tuple(image.shape[2:]), image.device, image.dtype)
        if made != asked:
            raise ValueError(f"the static windows are for images of shape, device and dtype {made}, got {asked}.")
        return [*self.plan.axes(self.buffer)]
