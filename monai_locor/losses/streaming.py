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
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from ..geometry import slabs
from ..precision import full_precision
from .banded import BandedMatrix

__all__ = ["SLAB_BUDGET_MB", "StreamedWindows", "VoxelMaps", "slab_budget"]

# working memory of a call: on a CPU the slabs then stay in the processor's cache; a GPU needs large launches
SLAB_BUDGET_MB = {"cpu": 20.0, "cuda": 2048.0}
MAX_SLAB_PLANES = 512  # the first axis's matrix is dense within a slab, which long images could not afford


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

    def filter_numbers(self, count: int) -> int:
        """Numbers per voxel of ``count`` maps before, between and after the filters of the axes, the first axis last."""
        shares = (w.count / w.size for w in (*self.windows[1:], self.windows[0]))
        return math.ceil(count * sum(itertools.accumulate(shares, operator.mul, initial=1.0)))

    def slabs(self, maps: VoxelMaps, itemsize: int) -> list[slice]:
        """Parts of the first axis that the budget allows for numbers of ``itemsize`` bytes."""
        voxels = math.prod(self.shape[1:])
        # a plane also has its columns of the first axis's matrix, which is made from a few others of its size
        columns = 5 * MAX_SLAB_PLANES * min(1.0, self.windows[0].count / self.windows[0].size)
        plane = math.ceil(itemsize * (maps.numbers_per_voxel(self) * voxels + columns))
        return slabs(self.shape, min(max(1, self.budget // plane), MAX_SLAB_PLANES) * voxels)

    def average(self, maps: VoxelMaps, like: torch.Tensor, produce: Callable[[int, slice], torch.Tensor]) -> torch.Tensor:
        """Window averages of all maps.

        Args:
            maps: which maps.
            like: ``(B, ...)``, gives the number of items, dtype and device.
            produce: makes the maps of one slab, ``(P, *slab)``, from the item and the part of the first axis.

        Returns:
            ``(B, P, *windows)``.
        """
        out = like.new_zeros(len(like), maps.count, self.window_shape[0], math.prod(self.window_shape[1:]))
        for item, part in self._portions(maps, like):
            self._add(self._filtered(produce(item, part)), out[item], part)
        return out.view(len(like), maps.count, *self.window_shape)

    def pull_back(
        self,
        maps: VoxelMaps,
        like: torch.Tensor,
        grad: torch.Tensor,
        consume: Callable[[int, slice, torch.Tensor], None],
    ) -> None:
        """The adjoint of :meth:`average`, in full precision.

        Args:
            maps, like: those of the forward pass.
            grad: gradient of the averages, ``(B, P, *windows)``.
            consume: takes item, part of the first axis and the gradient of that slab's maps, ``(P, *slab)``.
        """
        grad = grad.reshape(*grad.shape[:2], self.window_shape[0], -1)
        with full_precision(like.device):
            for item, part in self._portions(maps, like):
                # nothing of a slab has a name here, so that its memory is free before the next one
                consume(item, part, self._spread(grad[item], part))

    def _portions(self, maps: VoxelMaps, like: torch.Tensor) -> Iterator[tuple[int, slice]]:
        return itertools.product(range(len(like)), self.slabs(maps, like.element_size()))

    def _add(self, averages: torch.Tensor, out: torch.Tensor, part: slice) -> None:
        """Add the share of a slab, averaged along the other axes, to the averages of its item."""
        rows, matrix = self.windows[0].part(part)
        out[:, rows].add_(torch.matmul(matrix, averages))

    def _filtered(self, maps: torch.Tensor) -> torch.Tensor:
        """Averages along all axes but the first: ``(P, S, ...)`` to ``(P, S, windows)``."""
        out = maps
        for axis in range(1, len(self.shape)):
            out = self.windows[axis].filter(out, axis + 1)
        return out.reshape(*maps.shape[:2], -1)

    def _spread(self, grad: torch.Tensor, part: slice) -> torch.Tensor:
        """Gradient of the maps of a slab, ``(P, *slab)``, from that of the averages of its item."""
        rows, matrix = self.windows[0].part(part)
        return self._unfiltered(torch.matmul(matrix.T, grad[:, rows]))

    def _unfiltered(self, maps: torch.Tensor) -> torch.Tensor:
        """Adjoint of :meth:`_filtered`: ``(P, S, windows)`` to ``(P, S, ...)``."""
        out = maps.reshape(*maps.shape[:2], *self.window_shape[1:])
        for axis in range(len(self.shape) - 1, 0, -1):
            out = self.windows[axis].adjoint(out, axis + 1)
        return out.reshape(*maps.shape[:2], *self.shape[1:])
