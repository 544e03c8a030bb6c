# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Window averages of voxel-wise maps, streamed through the volume.

The local measures average products of voxel-wise features over windows. These maps are far larger than the images, so they
exist for one slab of the first axis at a time, in the forward pass and again in the backward pass. Only the inputs and the
averages are kept.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from ..geometry import slabs
from ..precision import full_precision
from .banded import BandedMatrix

__all__ = ["SLAB_BUDGET_MB", "Portion", "StreamedWindows", "VoxelMaps", "slab_budget"]

# working memory of a call: on a CPU the slabs then stay in the processor's cache; a GPU needs large launches
SLAB_BUDGET_MB = {"cpu": 20.0, "cuda": 2048.0}
MAX_SLAB_PLANES = 512  # the first axis's matrix is dense within a slab, which long images could not afford

Portion = tuple[slice, slice]  # items of a batch, planes of the first axis


def slab_budget(device: torch.device, mebibytes: float | None) -> int:
    """Bytes of working memory that a call may hold; None for the default of the device."""
    return math.ceil((mebibytes or SLAB_BUDGET_MB.get(device.type, SLAB_BUDGET_MB["cpu"])) * 2**20)


class VoxelMaps(Protocol):
    """The maps that a measure averages over its windows.

    Attributes:
        count: number of maps P.
    """

    count: int

    def numbers_per_voxel(self, windows: StreamedWindows) -> int:
        """Numbers that the forward or the backward pass holds per voxel of a slab, at most."""


class StreamedWindows:
    """The windows of a volume, applied to one slab after another.

    Args:
        windows: the window matrices of the spatial axes.
        budget: bytes that a call may hold beside its inputs, its results and what all slabs share: features of a slab, their
            products, filtered products and gradients. A slab has one plane of the first axis at least, whatever it takes.
    """

    def __init__(self, windows: Sequence[BandedMatrix], budget: int) -> None:
        self.windows, self.budget = windows, budget
        self.shape = tuple(w.size for w in windows)
        self.window_shape = tuple(w.count for w in windows)
        self._known: list[tuple[VoxelMaps, int, int, list[Portion]]] = []  # results of `portions`

    def filter_numbers(self, count: int) -> int:
        """Numbers per voxel of ``count`` maps before, between and after the filters of the axes, the first axis last."""
        shares = (w.count / w.size for w in (*self.windows[1:], self.windows[0]))
        return math.ceil(count * sum(itertools.accumulate(shares, operator.mul, initial=1.0)))

    def slabs(self, maps: VoxelMaps, itemsize: int) -> list[slice]:
        """Parts of the first axis that the budget allows for numbers of ``itemsize`` bytes."""
        return slabs(self.shape, min(self._planes(maps, itemsize), MAX_SLAB_PLANES) * math.prod(self.shape[1:]))

    def portions(self, maps: VoxelMaps, like: torch.Tensor) -> list[Portion]:
        """The part processed at once: several whole items of ``(B, ...)``, or a slab of one of them."""
        count, itemsize = like.shape[0], like.element_size()
        for known, *sizes, found in self._known:
            if known is maps and sizes == [count, itemsize]:
                return found
        parts = self.slabs(maps, itemsize)
        together = self._planes(maps, itemsize) // self.shape[0] if len(parts) == 1 else 1
        found = [(items, part) for items in slabs((count,), max(1, together)) for part in parts]
        self._known.append((maps, count, itemsize, found))
        return found

    def _planes(self, maps: VoxelMaps, itemsize: int) -> int:
        """Planes of the first axis that the budget allows."""
        # a plane also has its columns of the first axis's matrix, which is made from a few others of its size
        columns = 5 * MAX_SLAB_PLANES * min(1.0, self.windows[0].count / self.windows[0].size)
        plane = math.ceil(itemsize * (maps.numbers_per_voxel(self) * math.prod(self.shape[1:]) + columns))
        return max(1, self.budget // plane)

    def average(self, maps: VoxelMaps, like: torch.Tensor, produce: Callable[[Portion], torch.Tensor]) -> torch.Tensor:
        """Window averages of all maps.

        Args:
            maps: which maps.
            like: ``(B, ...)``, gives the number of items, dtype and device.
            produce: makes the maps of a portion, ``(G, P, *slab)``.

        Returns:
            ``(B, P, *windows)``.
        """
        portions = self.portions(maps, like)
        if len(portions) == 1:
            return self._averaged(produce(portions[0]), portions[0][1])[1]
        out = like.new_zeros(len(like), maps.count, *self.window_shape)
        for portion in portions:
            rows, averages = self._averaged(produce(portion), portion[1])
            out[portion[0], :, rows].add_(averages)
        return out

    def pull_back(
        self, maps: VoxelMaps, like: torch.Tensor, grad: torch.Tensor, consume: Callable[[Portion, torch.Tensor], None]
    ) -> None:
        """The adjoint of :meth:`average`, in full precision.

        Args:
            maps, like: those of the forward pass.
            grad: gradient of the averages, ``(B, P, *windows)``.
            consume: takes a portion and the gradient of its maps, ``(G, P, *slab)``, which it may overwrite.
        """
        with full_precision(like.device):
            for portion in self.portions(maps, like):
                # nothing of a portion has a name here, so that its memory is free before the next one
                consume(portion, self._spread(grad[portion[0]], portion[1]))

    # The first axis is the first one that is averaged, as its product is the most efficient one, unless the slab is so thin
    # that it would enlarge the maps; the adjoint goes the other way.

    def _averaged(self, maps: torch.Tensor, part: slice) -> tuple[slice, torch.Tensor]:
        """Windows of the first axis that a slab ``(G, P, *slab)`` belongs to, and its share of all averages there."""
        rows, matrix = self.windows[0].part(part)
        early = len(matrix) <= matrix.shape[1]
        if early:
            maps = _along_first(matrix, maps)
        for axis in range(1, len(self.shape)):
            maps = self.windows[axis].filter(maps, axis + 2)
        return rows, maps if early else _along_first(matrix, maps)

    def _spread(self, grad: torch.Tensor, part: slice) -> torch.Tensor:
        """Adjoint of :meth:`_averaged`: gradient of the maps of a slab from that of all averages of its items."""
        rows, matrix = self.windows[0].part(part)
        early = len(matrix) <= matrix.shape[1]
        grad = grad[:, :, rows].contiguous()
        if not early:
            grad = _along_first(matrix.T, grad)
        for axis in range(len(self.shape) - 1, 0, -1):
            grad = self.windows[axis].adjoint(grad, axis + 2)
        return _along_first(matrix.T, grad) if early else grad


def _along_first(matrix: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Multiply the first spatial axis of contiguous maps ``(G, P, S, ...)`` by a matrix."""
    flat = maps.view(-1, maps.shape[2], math.prod(maps.shape[3:]))
    return torch.bmm(matrix.expand(len(flat), -1, -1), flat).view(*maps.shape[:2], len(matrix), *maps.shape[3:])
