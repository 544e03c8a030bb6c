# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Splitting of volumes into slabs along the first axis, to limit the memory of intermediate results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from .grid import Grid

__all__ = ["VOXELS_PER_SLAB", "grid_slabs", "slabs"]

VOXELS_PER_SLAB = 2**18  # float64 positions of more voxels would need more memory than the images


def slabs(shape: Sequence[int], voxels: int = VOXELS_PER_SLAB) -> list[slice]:
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


def grid_slabs(grid: Grid, voxels: int = VOXELS_PER_SLAB) -> Iterator[tuple[slice, Grid]]:
    """The :func:`slabs` of a grid, each with its own grid."""
    for rows in slabs(grid.shape, voxels):
        yield rows, grid.cropped([rows, *(slice(0, n) for n in grid.shape[1:])])
