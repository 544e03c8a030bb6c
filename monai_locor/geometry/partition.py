# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parts of volumes: boxes with a margin, and slabs along the first axis, which limit the memory of intermediate results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .grid import Grid

if TYPE_CHECKING:  # torch takes seconds to import
    import torch

__all__ = ["VOXELS_PER_SLAB", "grid_slabs", "grown", "slabs", "voxels_per_slab"]

VOXELS_PER_SLAB = {"cpu": 2**17, "cuda": 2**21}  # intermediate results fit the CPU cache; large kernels on a GPU


def voxels_per_slab(device: torch.device | str) -> int:
    """Return the number of voxels whose intermediate results are computed at once on a device."""
    kind = device if isinstance(device, str) else device.type
    return VOXELS_PER_SLAB.get(kind.partition(":")[0], VOXELS_PER_SLAB["cpu"])


def slabs(shape: Sequence[int], voxels: int = VOXELS_PER_SLAB["cpu"]) -> list[slice]:
    """Split the first axis into as few slabs of about equal size as possible, with at least one plane each.

    Args:
        shape: number of voxels along each axis.
        voxels: maximum number of voxels per slab, unless one plane has more.

    >>> slabs((5, 4, 4), 40)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None)]
    """
    number = -(-shape[0] // max(1, voxels // max(1, math.prod(shape[1:]))))
    edges = [round(i * shape[0] / number) for i in range(number + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def grid_slabs(grid: Grid, device: torch.device | str = "cpu") -> Iterator[tuple[slice, Grid]]:
    """The :func:`slabs` of a grid for computations on a device, each with its own grid."""
    for rows in slabs(grid.shape, voxels_per_slab(device)):
        yield rows, grid.cropped([rows, *(slice(0, n) for n in grid.shape[1:])])


def grown(box: Sequence[slice], shape: Sequence[int], by: int | Sequence[int]) -> tuple[slice, ...]:
    """A box with a margin, inside the grid.

    Args:
        box: one slice per axis.
        shape: of the grid.
        by: margin along all axes, or along each, voxels.
    """
    margins = [by] * len(shape) if isinstance(by, int) else by
    return tuple(slice(max(b.start - m, 0), min(b.stop + m, n)) for b, m, n in zip(box, margins, shape, strict=True))
