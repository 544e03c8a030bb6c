# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The windows of a volume one by one, as the kernels read them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from ..windows import GridPlan

__all__ = ["HEAD", "AxisLists", "WindowLists"]

HEAD = 11  # numbers about an axis
ALIGNED = 4  # numbers: kernels are compiled for addresses that are multiples of 16 bytes


@dataclass(frozen=True)
class AxisLists:
    """The windows of one axis.

    Attributes:
        first_voxel: of each window, ``(windows,)`` int32.
        first_window: of each voxel, ``(voxels,)`` int32.
        weights: of a window from its first voxel on, ``(windows, W)``.
        voxel_weights: of a voxel from its first window on, ``(voxels, K)``.
    """

    first_voxel: torch.Tensor
    first_window: torch.Tensor
    weights: torch.Tensor
    voxel_weights: torch.Tensor


class WindowLists:
    """Where the lists of all axes lie in two buffers, and what :func:`.device.lists_kernel` needs to know to fill them.

    Args:
        plan: the windows without their shift.

    Attributes:
        known: for each axis, :data:`HEAD` numbers; then, for each axis, the first voxel that each of its rows of the table
            holds and the first row that can hold each of its voxels; int32 on the device of the plan.
        reach: largest number of rows that can hold a voxel.
        longest: largest number of windows or voxels of an axis.
    """

    def __init__(self, plan: GridPlan) -> None:
        axes = plan.plans
        rows = [[axis.rows(slice(z, z + 1)) for z in range(axis.size)] for axis in axes]
        self.reach = max(part.stop - part.start for own in rows for part in own)
        self.longest = max(max(axis.count, axis.size) for axis in axes)
        self._integers: list[tuple[int, ...]] = [n for axis in axes for n in ((axis.count,), (axis.size,))]
        self._weights: list[tuple[int, ...]] = [
            (n, k) for axis in axes for n, k in zip((axis.count, axis.size), axis.overlap, strict=True)
        ]
        self._places = [_places(shapes) for shapes in (self._integers, self._weights)]
        numbers = [x for axis, own in zip(axes, rows, strict=True) for x in (axis.starts, [part.start for part in own])]
        begins = [HEAD * len(axes) + x for x in (0, *itertools.accumulate(map(len, numbers)))]
        head = []
        for k, axis in enumerate(axes):
            pair = slice(2 * k, 2 * k + 2)
            places = [*begins[pair], plan.first_rows[k], *(x for places in self._places for x in places[pair])]
            head.append([axis.count, axis.size, *axis.overlap, *places])
        known = np.concatenate([*head, *numbers])
        self.known = torch.tensor(known, dtype=torch.int32, device="cpu").to(plan.device, non_blocking=True)

    def empty(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Buffers for the integers and the weights."""
        integers, weights = (places[-1] for places in self._places)
        return like.new_empty(integers, dtype=torch.int32), like.new_empty(weights)

    def split(self, integers: torch.Tensor, weights: torch.Tensor) -> list[AxisLists]:
        """The lists of all axes: views of the buffers."""
        parts = []
        for buffer, shapes, places in zip((integers, weights), (self._integers, self._weights), self._places, strict=True):
            parts.append([buffer[p : p + math.prod(s)].view(s) for p, s in zip(places, shapes, strict=False)])
        return [AxisLists(*parts[0][k : k + 2], *parts[1][k : k + 2]) for k in range(0, len(parts[0]), 2)]


def _places(shapes: list[tuple[int, ...]]) -> list[int]:
    """Where tensors of these shapes begin in a buffer, and its length."""
    lengths = (-(-math.prod(shape) // ALIGNED) * ALIGNED for shape in shapes)
    return [0, *itertools.accumulate(lengths)]
