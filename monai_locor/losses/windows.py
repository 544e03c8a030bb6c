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

"""Gaussian windows on a strided grid, one axis at a time, as banded matrices.

Row = output window, column = voxel. Any stride, shift and image border is only another matrix, and its transpose is
the exact adjoint. The matrices are applied block by block, so cost and memory stay linear in the length of the axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["AxisWindows", "random_shift", "window_count"]

BLOCK = 24  # windows per block: wide enough for a matrix product to be efficient, narrow enough to skip the zeros
NARROWEST = 0.1  # standard deviation, voxels: a narrower Gaussian would vanish half a voxel from its centre


def window_count(size: int, stride: float) -> int:
    """Number of windows that cover an axis of ``size`` voxels, one every ``stride`` voxels."""
    return max(1, math.ceil(size / stride - 1e-9))


def random_shift(stride: Sequence[float], generator: torch.Generator | None) -> torch.Tensor:
    """Shift of the window grid along each axis, uniform within half a stride, voxels, ``(D,)`` float64.

    Drawn on the host, so that a seed means the same on every device.
    """
    step = torch.tensor(stride, dtype=torch.float64)
    return (torch.rand(len(step), dtype=torch.float64, generator=generator) - 0.5) * step


@dataclass(frozen=True)
class _Block:
    """Rows ``rows`` of the matrix, which vanish outside columns ``cols``."""

    rows: slice
    cols: slice
    weight: torch.Tensor  # (rows, cols), contiguous


class AxisWindows:
    """The banded matrix of one axis and its adjoint.

    Windows are centred on the axis as a set, ``stride`` voxels apart, moved by ``shift`` voxels; a centre that would
    leave the image stays on its edge, half a voxel outside the last voxel's centre. Each row is a Gaussian truncated at
    ``truncated`` standard deviations (but never narrower than one voxel) and normalised to sum one over the voxels that
    exist, so windows at the border of the image are averages like any other, and none is empty.

    Args:
        size: voxels along the axis.
        sigma: standard deviation, voxels.
        stride: distance between windows, voxels.
        truncated: where the Gaussian is cut, in standard deviations.
        shift: 0-dimensional tensor in [-stride / 2, stride / 2], voxels; its device and dtype are those of the matrix.
    """

    def __init__(self, size: int, sigma: float, stride: float, truncated: float, shift: torch.Tensor) -> None:
        self.size, self.count = size, window_count(size, stride)
        self._sigma, self._stride = max(sigma, NARROWEST), stride
        self._reach = max(truncated * sigma, 0.5)
        self._first = (size - 1) / 2 - (self.count - 1) / 2 * stride
        # the extent of every block allows for any shift, so that no value has to come back from the device
        self._slack = self._reach + stride / 2
        index = torch.arange(self.count, device=shift.device, dtype=shift.dtype)
        self._centres = (self._first + stride * index + shift).clamp(-0.5, size - 0.5)
        self._norm = self._row_sums()
        self._forward = [self._block(rows, self._columns(rows)) for rows in _chunks(self.count, BLOCK)]
        self._adjoint = [self._block(self._rows(cols), cols, True) for cols in _chunks(size, round(BLOCK * max(stride, 1)))]

    def _row_sums(self) -> torch.Tensor:
        taps = torch.arange(math.ceil(2 * self._slack) + 2, device=self._centres.device, dtype=self._centres.dtype)
        voxels = (self._centres - self._slack).floor()[:, None] + taps
        inside = (voxels >= 0) & (voxels <= self.size - 1)
        return (self._gaussian(voxels - self._centres[:, None]) * inside).sum(1)

    def _gaussian(self, distance: torch.Tensor) -> torch.Tensor:
        return torch.exp(distance.square() * (-0.5 / self._sigma**2)) * (distance.abs() <= self._reach)

    def _columns(self, rows: slice) -> slice:
        low = self._first + rows.start * self._stride - self._slack
        high = self._first + (rows.stop - 1) * self._stride + self._slack
        return slice(min(max(0, math.floor(low)), self.size - 1), max(1, min(self.size, math.ceil(high) + 1)))

    def _rows(self, cols: slice) -> slice:
        low = math.floor((cols.start - self._slack - self._first) / self._stride)
        high = math.ceil((cols.stop - 1 + self._slack - self._first) / self._stride) + 1
        return slice(min(max(0, low), self.count - 1), max(1, min(self.count, high)))

    def _block(self, rows: slice, cols: slice, transpose: bool = False) -> _Block:
        voxels = torch.arange(cols.start, cols.stop, device=self._centres.device, dtype=self._centres.dtype)
        weight = self._gaussian(voxels - self._centres[rows, None]) / self._norm[rows, None].clamp_min(1e-30)
        return _Block(rows, cols, weight.T.contiguous() if transpose else weight)

    def part(self, cols: slice) -> tuple[slice, torch.Tensor]:
        """The rows that touch the voxels ``cols``, and that part of the matrix, ``(rows, cols)``."""
        block = self._block(self._rows(cols), cols)
        return block.rows, block.weight

    def filter(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """Window averages along ``axis`` of a contiguous tensor."""
        return _apply(x, axis, self.count, [(b.rows, b.cols, b.weight) for b in self._forward])

    def adjoint(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """The transpose of :meth:`filter`."""
        return _apply(x, axis, self.size, [(b.cols, b.rows, b.weight) for b in self._adjoint])


def _chunks(size: int, length: int) -> Sequence[slice]:
    number = -(-size // length)
    edges = [round(i * size / number) for i in range(number + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


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
