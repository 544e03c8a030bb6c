# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Windows on a strided grid as banded matrices, one per axis.

A row is an output window, a column a voxel. Stride, shift and image border only change the matrix, and its transpose is
the exact adjoint. The matrices are applied block by block, so cost and memory stay linear in the length of the axis.
Everything that does not depend on the shift is a :class:`WindowPlan`, which can be kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..geometry import cubic_bspline, slabs

__all__ = ["AxisWindows", "BandedMatrix", "ReplicatedBox", "WindowPlan", "random_shift", "window_count"]

WINDOWS_PER_BLOCK = 24  # windows per block: wide enough for a matrix product to be efficient, narrow enough to skip the zeros
MIN_SIGMA_VOXELS = 0.1  # standard deviation, voxels: a narrower Gaussian would vanish half a voxel from its center


def window_count(size: int, stride: float) -> int:
    """Number of windows, one every ``stride`` voxels, that cover an axis of ``size`` voxels."""
    return max(1, math.ceil(size / stride - 1e-9))


def random_shift(stride: Sequence[float], generator: torch.Generator | None) -> torch.Tensor:
    """Shift of the window grid along each axis, uniform within half a stride, voxels, ``(D,)`` float64.

    Drawn on the host, so that a seed gives the same shift on every device.
    """
    step = torch.tensor(stride, dtype=torch.float64, device="cpu")
    return (torch.rand(len(step), dtype=torch.float64, device="cpu", generator=generator) - 0.5) * step


@dataclass(frozen=True)
class Block:
    """Rows ``rows`` of a matrix, which vanish outside the columns ``cols``.

    Attributes:
        weight: ``(rows, cols)``, or, of the adjoint, ``(cols, rows)``.
    """

    rows: slice
    cols: slice
    weight: torch.Tensor


class BandedMatrix:
    """A matrix ``(count, size)`` for one axis of a volume and its adjoint, each in its own blocks.

    Args:
        size: voxels along the axis.
        count: windows along it.
        forward: blocks that hold every row once.
        adjoint: blocks that hold every column once, transposed.
    """

    def __init__(self, size: int, count: int, forward: Sequence[Block], adjoint: Sequence[Block]) -> None:
        self.size, self.count = size, count
        self._forward, self._adjoint = list(forward), list(adjoint)

    def filter(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """Window averages along ``axis`` of a contiguous tensor."""
        return _apply(x, axis, self.count, [(b.rows, b.cols, b.weight) for b in self._forward])

    def adjoint(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """The transpose of :meth:`filter`."""
        return _apply(x, axis, self.size, [(b.cols, b.rows, b.weight) for b in self._adjoint])

    def part(self, cols: slice) -> tuple[slice, torch.Tensor]:
        """The rows that touch the voxels ``cols``, and that part of the matrix, ``(rows, cols)``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian of the distance from the window's center, truncated at ``reach``, voxels."""

    sigma: float
    reach: float

    def __call__(self, distance: torch.Tensor) -> torch.Tensor:
        return torch.exp(distance.square() * (-0.5 / self.sigma**2)) * (distance.abs() <= self.reach)


@dataclass(frozen=True)
class CubicSpline:
    """The cubic B-spline with nodes ``spacing`` voxels apart."""

    spacing: float

    def __call__(self, distance: torch.Tensor) -> torch.Tensor:
        return cubic_bspline(distance / self.spacing)


class WindowPlan:
    """The windows of one axis without their shift: everything that can be kept between calls.

    The set of windows, ``stride`` voxels apart, is centered on the axis and moved by the shift. A center that would leave
    the image is put on its edge, half a voxel outside the last voxel's center.

    Args:
        size: voxels along the axis.
        count: windows along it.
        stride: distance between windows, voxels.
        reach: distance from the center at which a window ends, voxels.
        kernel: weight of a voxel by its distance from the center, voxels.
        normalized: rows sum to one over the voxels that exist.
        device, dtype: of the matrices.
    """

    def __init__(
        self,
        size: int,
        count: int,
        stride: float,
        reach: float,
        kernel: Callable[[torch.Tensor], torch.Tensor],
        normalized: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size, self.count, self.stride, self.kernel, self.normalized = size, count, stride, kernel, normalized
        self._first = (size - 1) / 2 - (count - 1) / 2 * stride
        # every block has room for any shift, so that no value has to be read back from the device
        self._slack = reach + stride / 2
        self.centers = self._first + stride * torch.arange(count, device=device, dtype=dtype)
        self.forward = _Batch([(rows, self._columns(rows)) for rows in slabs((count,), WINDOWS_PER_BLOCK)], self)
        chunks = slabs((size,), round(WINDOWS_PER_BLOCK * max(stride, 1)))
        self.adjoint = _Batch([(self.rows(cols), cols) for cols in chunks], self)

    @classmethod
    def gaussian(
        cls, size: int, sigma: float, stride: float, truncated: float, device: torch.device, dtype: torch.dtype
    ) -> WindowPlan:
        """Gaussians truncated at ``truncated`` standard deviations, but at least one voxel wide.

        Each row is normalized to sum one over the voxels that exist, so windows at the border of the image are averages
        like any other, and no window is empty.

        Args:
            size: voxels along the axis.
            sigma: standard deviation, voxels.
            stride: distance between windows, voxels.
            truncated: where the Gaussian is cut, in standard deviations.
            device, dtype: of the matrices.
        """
        kernel = Gaussian(max(sigma, MIN_SIGMA_VOXELS), max(truncated * sigma, 0.5))
        return cls(size, window_count(size, stride), stride, kernel.reach, kernel, True, device, dtype)

    @classmethod
    def spline(cls, size: int, spacing: int, device: torch.device, dtype: torch.dtype) -> WindowPlan:
        """Cubic B-splines, four spacings long, which add up to one inside the image and are not normalized.

        As many centers, ``spacing`` voxels apart, as fit between the two edges of the axis. If the size is a multiple of the
        spacing, the outermost centers lie on the edges, half a voxel outside the last voxels.
        """
        return cls(size, size // spacing + 1, spacing, 2 * spacing, CubicSpline(spacing), False, device, dtype)

    def shifted(self, shift: torch.Tensor) -> AxisWindows:
        """The windows moved by a 0-dimensional tensor in ``[-stride / 2, stride / 2]`` of the same device and dtype."""
        return AxisWindows(self, shift)

    @cached_property
    def centered(self) -> AxisWindows:
        """The windows without a shift."""
        with torch.inference_mode(False), torch.no_grad():
            return AxisWindows(self, self.centers.new_zeros(()))

    def _columns(self, rows: slice) -> slice:
        low = self._first + rows.start * self.stride - self._slack
        high = self._first + (rows.stop - 1) * self.stride + self._slack
        return slice(min(max(0, math.floor(low)), self.size - 1), max(1, min(self.size, math.ceil(high) + 1)))

    def rows(self, cols: slice) -> slice:
        """Windows that can touch these voxels for any shift."""
        low = math.floor((cols.start - self._slack - self._first) / self.stride)
        high = math.ceil((cols.stop - 1 + self._slack - self._first) / self.stride) + 1
        return slice(min(max(0, low), self.count - 1), max(1, min(self.count, high)))


class _Batch:
    """Blocks of a plan, padded to one size, so that a few operations make all of them.

    Args:
        blocks: rows and columns of each.
        plan: the plan.
    """

    def __init__(self, blocks: Sequence[tuple[slice, slice]], plan: WindowPlan) -> None:
        self.blocks = blocks
        device, dtype = plan.centers.device, plan.centers.dtype
        most = [max(s.stop - s.start for s in spans) for spans in zip(*blocks, strict=True)]
        starts = torch.tensor([[r.start, c.start] for r, c in blocks], device="cpu").to(device, non_blocking=True)
        index, voxels = (starts[:, i : i + 1] + torch.arange(most[i], device=device) for i in (0, 1))
        self.index = index.clamp_max(plan.count - 1)  # (blocks, rows)
        self.centers = plan.centers[self.index]
        self.voxels = voxels.to(dtype)[:, None]  # (blocks, 1, columns)
        self.inside = (voxels < plan.size)[:, None]

    def weights(self, plan: WindowPlan, shift: torch.Tensor) -> torch.Tensor:
        """``(blocks, rows, columns)``, not normalized; rows and columns beyond a block's own are meaningless."""
        centers = (self.centers + shift).clamp_(-0.5, plan.size - 0.5)
        return plan.kernel(self.voxels - centers[..., None]) * self.inside

    def cut(self, weights: torch.Tensor, transposed: bool = False) -> list[Block]:
        """The blocks, cut out of padded ``(blocks, rows, columns)`` or its transpose."""
        out = []
        for weight, (rows, cols) in zip(weights, self.blocks, strict=True):
            first, second = (cols, rows) if transposed else (rows, cols)
            out.append(Block(rows, cols, weight[: first.stop - first.start, : second.stop - second.start]))
        return out


class AxisWindows(BandedMatrix):
    """The windows of a :class:`WindowPlan` with a shift.

    Args:
        plan: everything that does not depend on the shift.
        shift: 0-dimensional tensor, voxels; of the plan's device and dtype.
    """

    def __init__(self, plan: WindowPlan, shift: torch.Tensor) -> None:
        self._plan, self._shift = plan, shift
        weights = plan.forward.weights(plan, shift)
        norms = weights.sum(-1).clamp_min_(1e-30) if plan.normalized else torch.ones_like(weights[..., 0])
        rows = (r.stop - r.start for r, _ in plan.forward.blocks)
        self._norms = torch.cat([norm[:n] for norm, n in zip(norms, rows, strict=True)])
        forward = plan.forward.cut(weights.div_(norms[..., None]))
        weights = plan.adjoint.weights(plan, shift).div_(self._norms[plan.adjoint.index][..., None])
        super().__init__(plan.size, plan.count, forward, plan.adjoint.cut(weights.mT.contiguous(), transposed=True))

    @classmethod
    def gaussian(cls, size: int, sigma: float, stride: float, truncated: float, shift: torch.Tensor) -> AxisWindows:
        """Windows from the arguments of :meth:`WindowPlan.gaussian`; device and dtype are those of the shift."""
        return WindowPlan.gaussian(size, sigma, stride, truncated, shift.device, shift.dtype).shifted(shift)

    def part(self, cols: slice) -> tuple[slice, torch.Tensor]:
        """The rows that touch the voxels ``cols``, and that part of the matrix, ``(rows, cols)``."""
        plan, rows = self._plan, self._plan.rows(cols)
        centers = (plan.centers[rows] + self._shift).clamp_(-0.5, plan.size - 0.5)
        voxels = torch.arange(cols.start, cols.stop, device=centers.device, dtype=centers.dtype)
        return rows, plan.kernel(voxels - centers[:, None]) / self._norms[rows, None]


class ReplicatedBox(BandedMatrix):
    """Mean over ``2 radius + 1`` voxels around every voxel; beyond the border the image continues with its last value.

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

        chunks = slabs((size,), WINDOWS_PER_BLOCK + 8)
        forward = [block(rows, around(rows)) for rows in chunks]
        super().__init__(size, size, forward, [block(around(cols), cols, True) for cols in chunks])


def _apply(x: torch.Tensor, axis: int, size: int, blocks: list[tuple[slice, slice, torch.Tensor]]) -> torch.Tensor:
    """Multiply ``axis`` of ``x`` by a matrix with ``size`` rows, given as (rows, columns, weight) of its blocks."""
    if axis == x.ndim - 1:
        flat = x.view(-1, x.shape[-1])
        out = x.new_empty(len(flat), size)
        for rows, cols, weight in blocks:
            torch.mm(flat[:, cols], weight.T, out=out[:, rows])
        return out.view(*x.shape[:-1], size)
    flat = x.view(-1, x.shape[axis], math.prod(x.shape[axis + 1 :]))
    out = x.new_empty(len(flat), size, flat.shape[2])
    for rows, cols, weight in blocks:
        torch.bmm(weight.expand(len(flat), -1, -1), flat[:, cols], out=out[:, rows])
    return out.view(*x.shape[:axis], size, *x.shape[axis + 1 :])
