# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Banded matrices along one axis of a volume, applied block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..geometry import slabs

__all__ = ["BandedMatrix", "Block", "ReplicatedBox"]

VOXELS_PER_BLOCK = {"cpu": 32, "cuda": 64}  # of a box: enough for an efficient matrix product, few enough to skip the zeros


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

    def rows(self, cols: slice) -> slice:
        """The rows that touch the voxels ``cols``, without the matrix."""
        raise NotImplementedError

    @property
    def overlap(self) -> tuple[int, int] | None:
        """Largest number of consecutive voxels of a window and of windows of a voxel; None where they are not known."""
        return None


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

        chunks = slabs((size,), VOXELS_PER_BLOCK.get(device.type, VOXELS_PER_BLOCK["cpu"]))
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
