# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Windows on a strided grid as banded matrices, one per axis.

A row is an output window, a column a voxel. Stride, shift and image border only change the matrix, and its transpose is
the exact adjoint. The matrices are applied block by block, so cost and memory stay linear in the length of the axis.

The weights are calculated on the host, where the shift is drawn: one small table for all axes, which is copied to the
device and unpacked there by one indexing operation. Everything that does not depend on the shift is a :class:`GridPlan`,
which can be kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..geometry import cubic_bspline, slabs
from ..recent import Recent
from .banded import BandedMatrix, Block

__all__ = ["AxisWindows", "GridPlan", "WindowPlan", "random_shift", "window_count"]

# windows per block: on a CPU, wide enough for a matrix product to be efficient, narrow enough to skip the zeros; a GPU needs
# few launches
WINDOWS_PER_BLOCK = {"cpu": 24, "cuda": 96}
MAX_DENSE_NUMBERS = 1 << 18  # of the first axis's matrix, if it is to be kept whole
MIN_SIGMA_VOXELS = 0.1  # standard deviation, voxels: a narrower Gaussian would vanish half a voxel from its center
NO_VOXEL = 1e9  # position of a voxel that no window reaches


def window_count(size: int, stride: float) -> int:
    """Number of windows, one every ``stride`` voxels, that cover an axis of ``size`` voxels."""
    return max(1, math.ceil(size / stride - 1e-9))


def random_shift(stride: Sequence[float], generator: torch.Generator | None) -> torch.Tensor:
    """Shift of the window grid along each axis, uniform within half a stride, voxels, ``(D,)`` float64.

    Drawn on the host, so that a seed gives the same shift on every device.
    """
    step = torch.tensor(stride, dtype=torch.float64, device="cpu")
    return (torch.rand(len(step), dtype=torch.float64, device="cpu", generator=generator) - 0.5) * step


def gaussian(distance: torch.Tensor) -> torch.Tensor:
    """A Gaussian of the distance in standard deviations."""
    return torch.exp(distance.square().mul_(-0.5))


class WindowPlan:
    """The windows of one axis without their shift.

    The set of windows, ``stride`` voxels apart, is centered on the axis and moved by the shift. A center that would leave
    the image is put on its edge, half a voxel outside the last voxel's center.

    A row of the band holds the voxels that its window can reach for any shift, so that the structure of the matrix does not
    depend on the shift.

    Args:
        size: voxels along the axis.
        count: windows along it.
        stride: distance between windows, voxels.
        reach: distance from the center at which a window ends, voxels.
        unit: unit of the kernel's distance, voxels.
        kernel: weight of a voxel by its distance from the center, in units.
        normalized: rows sum to one over the voxels that exist.

    Attributes:
        centers: of the windows, voxels, ``(count,)`` float64.
        starts: first voxel of each row of the band, ``(count,)``.
        width: length of a row of the band.
    """

    def __init__(
        self,
        size: int,
        count: int,
        stride: float,
        reach: float,
        unit: float,
        kernel: Callable[[torch.Tensor], torch.Tensor],
        normalized: bool,
    ) -> None:
        self.size, self.count, self.stride, self.reach, self.unit = size, count, stride, reach, unit
        self.kernel, self.normalized = kernel, normalized
        self.centers = (size - 1) / 2 + (np.arange(count) - (count - 1) / 2) * stride
        low, high = (np.clip(self.centers + sign * stride / 2, -0.5, size - 0.5) + sign * (reach + 1e-6) for sign in (-1, 1))
        first, last = np.ceil(low).astype(int), np.floor(high).astype(int)
        self.width = int(min(size, (last - first).max() + 1))
        self.starts = np.clip(first, 0, size - self.width)
        self._scatters = Recent[torch.Tensor](64)

    @classmethod
    def gaussian(cls, size: int, sigma: float, stride: float, truncated: float) -> WindowPlan:
        """Gaussians truncated at ``truncated`` standard deviations, but at least one voxel wide.

        Each row is normalized to sum one over the voxels that exist, so windows at the border of the image are averages
        like any other, and no window is empty.

        Args:
            size: voxels along the axis.
            sigma: standard deviation, voxels.
            stride: distance between windows, voxels.
            truncated: where the Gaussian is cut, in standard deviations.
        """
        reach = max(truncated * sigma, 0.5)
        return cls(size, window_count(size, stride), stride, reach, max(sigma, MIN_SIGMA_VOXELS), gaussian, True)

    @classmethod
    def spline(cls, size: int, spacing: int) -> WindowPlan:
        """Cubic B-splines, four spacings long, which add up to one inside the image and are not normalized.

        As many centers, ``spacing`` voxels apart, as fit between the two edges of the axis. If the size is a multiple of the
        spacing, the outermost centers lie on the edges, half a voxel outside the last voxels.
        """
        return cls(size, size // spacing + 1, spacing, 2 * spacing, spacing, cubic_bspline, False)

    def rows(self, cols: slice) -> slice:
        """Windows that can touch these voxels for any shift; at least one."""
        low, high = np.searchsorted(self.starts + self.width, cols.start, "right"), np.searchsorted(self.starts, cols.stop)
        low = min(int(low), self.count - 1)
        return slice(low, max(low + 1, int(high)))

    def cols(self, rows: slice) -> slice:
        """Voxels that these windows can touch for any shift."""
        return slice(int(self.starts[rows.start]), int(self.starts[rows.stop - 1]) + self.width)

    def blocks(self, windows: int | None) -> tuple[list[tuple[slice, slice]], list[tuple[slice, slice]]]:
        """Rows and columns of the blocks of the matrix and of its adjoint, with about so many windows each; None for one."""
        if windows is None:
            return ([(slice(0, self.count), slice(0, self.size))],) * 2
        forward = [(rows, self.cols(rows)) for rows in slabs((self.count,), windows)]
        chunks = slabs((self.size,), max(1, round(windows * self.size / self.count)))
        return forward, [(self.rows(cols), cols) for cols in chunks]

    def positions(self, rows: slice, cols: slice) -> np.ndarray:
        """Index of each number of a block in the flattened band, ``(rows, cols)``; -1 for a zero."""
        column = np.arange(cols.start, cols.stop) - self.starts[rows, None]
        row = np.arange(rows.start, rows.stop)[:, None]
        return np.where((column >= 0) & (column < self.width), row * self.width + column, -1)

    @cached_property
    def overlap(self) -> tuple[int, int]:
        """Largest number of voxels of a window and of windows of a voxel, for any shift."""
        span = 2 * self.reach + 1e-6
        covering = math.floor(span / self.stride) + 1
        # a center on the edge of the image may be as near as half a stride to the next one
        last = math.floor(max(self.reach - 0.5, 0)) + self.reach + 0.5
        covering = max(covering, math.floor(last / self.stride - 0.5) + 2)
        return min(math.floor(span) + 1, self.size), min(covering, self.count)

    def scatter(self, rows: slice, cols: slice, device: torch.device) -> torch.Tensor:
        """Where the band goes in a matrix of these rows and columns that has ``width`` further columns on either side."""

        def make() -> torch.Tensor:
            first = self.starts[rows] - cols.start + self.width
            return torch.tensor(first[:, None] + np.arange(self.width), device="cpu").to(device, non_blocking=True)

        return self._scatters.get((rows.start, rows.stop, cols.start, cols.stop, device), make)


class GridPlan:
    """The windows of all axes of a volume without their shift: everything that can be kept between calls.

    Args:
        axes: the windows of each axis, of one kernel.
        moving: whether the shift moves the windows of an axis.
        device, dtype: of the matrices.

    Attributes:
        plans: of the axes.
        first_rows: of the windows of each axis in the table.
        width: of the table.
        kept: what the kernels of a GPU keep.
    """

    def __init__(self, axes: Sequence[WindowPlan], moving: Sequence[bool], device: torch.device, dtype: torch.dtype) -> None:
        self.plans, self.device, self.dtype = list(axes), device, dtype
        self.kept = Recent[Any](1)
        self.kernel, self.normalized = axes[0].kernel, axes[0].normalized
        self.width = max(plan.width for plan in axes)
        self._prepare_table(moving)
        self._prepare_blocks()

    def _prepare_table(self, moving: Sequence[bool]) -> None:
        """Positions of windows and voxels, one row per window and one more, of zeros, float64 on the host."""
        rows = sum(plan.count for plan in self.plans) + 1
        voxels = np.full((rows, self.width), NO_VOXEL)
        centers, edges, scales, reaches = (np.zeros((rows, 1)) for _ in range(4))
        shares = np.zeros((rows, len(self.plans)))
        self.first_rows, start = [], 0
        for axis, plan in enumerate(self.plans):
            own = slice(start, start + plan.count)
            self.first_rows.append(start)
            voxels[own, : plan.width] = plan.starts[:, None] + np.arange(plan.width)
            centers[own, 0], edges[own], scales[own], reaches[own] = plan.centers, plan.size - 0.5, 1 / plan.unit, plan.reach
            shares[own, axis] = moving[axis]
            start += plan.count
        every = (voxels, centers, edges, scales, reaches, shares)
        self._voxels, self._centers, self._edges, self._scales, self._reaches, self._shares = (
            torch.tensor(x, dtype=torch.float64, device="cpu") for x in every
        )

    def _prepare_blocks(self) -> None:
        """Where the blocks of all matrices find their numbers in the table, on the device."""
        most = WINDOWS_PER_BLOCK.get(self.device.type, WINDOWS_PER_BLOCK["cpu"])
        zero, found = (len(self._voxels) - 1) * self.width, []
        self._blocks = []
        for axis, plan in enumerate(self.plans):
            whole = axis == 0 and plan.count * plan.size <= MAX_DENSE_NUMBERS
            blocks = plan.blocks(None if whole else most)
            self._blocks.append(blocks)
            for transposed, (rows, cols) in ((t, b) for t, half in enumerate(blocks) for b in half):
                index = plan.positions(rows, cols)
                index = np.where(index < 0, zero, self._in_table(axis, index))
                found.append((index.T if transposed else index).ravel())
        self._sizes = [len(index) for index in found]
        self._index = torch.tensor(np.concatenate(found), dtype=torch.int32, device="cpu").to(self.device, non_blocking=True)

    def _in_table(self, axis: int, index: np.ndarray) -> np.ndarray:
        """From the index in the band of an axis to that in the table."""
        row, column = np.divmod(index, self.plans[axis].width)
        return (self.first_rows[axis] + row) * self.width + column

    def table(self, shift: torch.Tensor | None) -> torch.Tensor:
        """The weights of all windows, on the host, in the dtype of the matrices.

        Args:
            shift: of each axis, voxels, ``(D,)`` float64 on the host, within half a stride; None for none.

        Returns:
            ``(numbers,)``.
        """
        centers = self._centers if shift is None else torch.addmv(self._centers[:, 0], self._shares, shift)[:, None]
        distance = self._voxels - torch.minimum(centers.clamp_min(-0.5), self._edges)
        weights = self.kernel(distance * self._scales).mul_(distance.abs_() <= self._reaches)
        if self.normalized:
            weights.div_(weights.sum(1, keepdim=True).clamp_min_(1e-30))
        return weights.to(self.dtype).flatten()

    def axes(self, table: torch.Tensor) -> list[AxisWindows]:
        """The matrices of all axes from a :meth:`table` on the device."""
        pieces = iter(table.index_select(0, self._index).split(self._sizes))
        out, source = [], (self, table)
        for axis, (plan, halves) in enumerate(zip(self.plans, self._blocks, strict=True)):
            forward, adjoint = ([(rows, cols, next(pieces)) for rows, cols in half] for half in halves)
            start = self.first_rows[axis]
            band = table.view(-1, self.width)[start : start + plan.count, : plan.width]
            blocks = [Block(r, c, w.view(r.stop - r.start, -1)) for r, c, w in forward]
            transposed = [Block(r, c, w.view(c.stop - c.start, -1)) for r, c, w in adjoint]
            out.append(AxisWindows(plan, band, blocks, transposed, source))
        return out

    def shifted(self, shift: torch.Tensor) -> list[AxisWindows]:
        """The windows moved by a shift, see :meth:`table`."""
        return self.axes(self.table(shift).to(self.device, non_blocking=True))

    @cached_property
    def centered(self) -> list[AxisWindows]:
        """The windows without a shift."""
        with torch.inference_mode(False), torch.no_grad():
            return self.axes(self.table(None).to(self.device, non_blocking=True))


class AxisWindows(BandedMatrix):
    """The windows of a :class:`WindowPlan` with a shift.

    Args:
        plan: everything that does not depend on the shift.
        band: weights, ``(count, plan.width)``.
        forward, adjoint: see :class:`BandedMatrix`.
        source: the plan of all axes and the table with the weights of all windows.
    """

    def __init__(
        self,
        plan: WindowPlan,
        band: torch.Tensor,
        forward: Sequence[Block],
        adjoint: Sequence[Block],
        source: tuple[GridPlan, torch.Tensor],
    ) -> None:
        super().__init__(plan.size, plan.count, forward, adjoint)
        self._plan, self._band, self.source = plan, band, source

    @classmethod
    def gaussian(cls, size: int, sigma: float, stride: float, truncated: float, shift: torch.Tensor) -> AxisWindows:
        """Windows from the arguments of :meth:`WindowPlan.gaussian`; device and dtype are those of the shift."""
        plan = GridPlan([WindowPlan.gaussian(size, sigma, stride, truncated)], [True], shift.device, shift.dtype)
        return plan.shifted(shift.reshape(1).to("cpu", torch.float64))[0]

    def part(self, cols: slice) -> tuple[slice, torch.Tensor]:
        """The rows that touch the voxels ``cols``, and that part of the matrix, ``(rows, cols)``."""
        rows, width = self._plan.rows(cols), self._plan.width
        if len(self._forward) == 1 and self._forward[0].cols == slice(0, self.size):
            return rows, self._forward[0].weight[rows, cols]
        # the band, written into a matrix with room for it on either side
        index = self._plan.scatter(rows, cols, self._band.device)
        out = self._band.new_zeros(rows.stop - rows.start, cols.stop - cols.start + 2 * width)
        return rows, out.scatter_(1, index, self._band[rows])[:, width:-width]

    def rows(self, cols: slice) -> slice:
        """The rows that touch the voxels ``cols``, without the matrix."""
        return self._plan.rows(cols)

    @property
    def overlap(self) -> tuple[int, int]:
        """Largest number of consecutive voxels of a window and of windows of a voxel, for any shift."""
        return self._plan.overlap
