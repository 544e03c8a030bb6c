# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Division of a grid into tiles with a halo, and their weights, which sum to one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..geometry.partition import grown

__all__ = ["Box", "Tiling", "boxes", "extent"]

Box = tuple[slice, ...]


def boxes(shape: Sequence[int], sides: Sequence[int]) -> list[Box]:
    """Cover a grid by boxes of a size; those at the end of an axis are smaller.

    >>> [box[0] for box in boxes((5,), (2,))]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    starts = list(itertools.product(*(range(0, n, side) for n, side in zip(shape, sides, strict=True))))
    ends = [[min(first + side, n) for first, side, n in zip(start, sides, shape, strict=True)] for start in starts]
    return [tuple(map(slice, start, end)) for start, end in zip(starts, ends, strict=True)]


def extent(box: Sequence[slice], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The positions along each axis between which points belong to a box; infinite where the grid ends.

    >>> [side.tolist() for side in extent((slice(0, 4), slice(2, 5)), (8, 5))]
    [[-inf, 1.5], [3.5, inf]]
    """
    low = np.array([-np.inf if b.start == 0 else b.start - 0.5 for b in box])
    return low, np.array([np.inf if b.stop == n else b.stop - 0.5 for b, n in zip(box, shape, strict=True)])


@dataclass(frozen=True)
class Tiling:
    """Tiles of a grid: cores that cover each voxel once, and around them a halo, in which neighboring tiles overlap.

    Along each axis, the weight of a tile falls from one to zero between ``halo / 2`` inside and ``halo / 2`` outside of the
    border of its core. The other half of the halo is computed only so that the border of the tile does not matter.

    Attributes:
        shape: voxels of the grid.
        edges: along each axis, the borders of the cores, from 0 to the number of voxels.
        halo: width of the halo along each axis, voxels.
    """

    shape: tuple[int, ...]
    edges: tuple[tuple[int, ...], ...]
    halo: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], core: Sequence[int], halo: Sequence[int], unit: int = 1) -> Tiling:
        """Divide a grid into cores of equal size.

        Args:
            shape: voxels of the grid.
            core: largest size of a core along each axis, voxels.
            halo: width of the halo along each axis, voxels.
            unit: the borders are multiples of it.

        >>> Tiling.of((100,), (40,), (8,), 4).edges
        ((0, 32, 68, 100),)
        """
        edges = []
        for n, side in zip(shape, core, strict=True):
            count = math.ceil(n / side)
            inner = {round(k * n / count / unit) * unit for k in range(1, count)}
            edges.append((0, *sorted(e for e in inner if 0 < e < n), n))
        return cls(tuple(shape), tuple(edges), tuple(halo))

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(len(edges) - 1 for edges in self.edges)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def position(self, number: int) -> tuple[int, ...]:
        """Position of a tile along each axis."""
        return tuple(int(k) for k in np.unravel_index(number, self.counts))

    def core(self, number: int) -> Box:
        """The voxels of the core of a tile."""
        return tuple(slice(e[k], e[k + 1]) for e, k in zip(self.edges, self.position(number), strict=True))

    def box(self, number: int) -> Box:
        """The voxels of a tile, core and halo."""
        return grown(self.core(number), self.shape, self.halo)

    def weights(self, number: int, axis: int, positions: np.ndarray) -> np.ndarray:
        """Weights of a tile along an axis; the weight at a point is their product over the axes.

        Args:
            number: number of the tile.
            positions: positions along the axis, voxels, ``(N,)``; also outside of the grid.

        Returns:
            ``(N,)``, zero outside of the tile.
        """
        k = self.position(number)[axis]
        return self._beyond(positions, axis, k) - self._beyond(positions, axis, k + 1)

    def _beyond(self, positions: np.ndarray, axis: int, k: int) -> np.ndarray:
        """How far positions are beyond border ``k``: 0 before, 1 after, smooth (twice differentiable) between."""
        edges = self.edges[axis]
        if k in (0, len(edges) - 1):
            return np.full(len(positions), float(k == 0))
        t = np.clip((positions - (edges[k] - 0.5)) / self.halo[axis] + 0.5, 0, 1)
        return t**3 * (t * (6 * t - 15) + 10)

    def reach(self, number: int, axis: int) -> tuple[float, float]:
        """The positions along an axis between which the weight of a tile is not zero."""
        k, edges = self.position(number)[axis], self.edges[axis]
        low = -np.inf if k == 0 else edges[k] - 0.5 - self.halo[axis] / 2
        high = np.inf if k + 2 == len(edges) else edges[k + 1] - 0.5 + self.halo[axis] / 2
        return low, high

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))
