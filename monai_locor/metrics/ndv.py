# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Non-diffeomorphic volume: the volume that a transform, interpolated piecewise linearly, inverts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch

from ..geometry import Grid, slabs, to_voxels
from ..geometry.partition import voxels_per_slab
from ..precision import guarded
from .arrays import simplices
from .selection import check_displacement, spatial_mask

__all__ = ["FoldedVolume", "determinant", "non_diffeomorphic_volume"]


def determinant(columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """Determinants of many small matrices, given as D columns, each ``(D, *any)``, D = 2 or 3.

    Written out because ``torch.linalg.det`` and ``torch.linalg.cross`` on millions of matrices are much slower.
    """
    if len(columns) == 2:
        (a, b), (c, d) = columns
        return a * d - b * c
    return _dot(columns[0], _cross(columns[1], columns[2]))


def _cross(b: torch.Tensor, c: torch.Tensor) -> list[torch.Tensor]:
    """Cross product of vectors ``(3, *any)``, by component."""
    return [(b[i] * c[j]).sub_(b[j] * c[i]) for i, j in ((1, 2), (2, 0), (0, 1))]


def _dot(a: torch.Tensor, b: Sequence[torch.Tensor]) -> torch.Tensor:
    return (a[0] * b[0]).add_(a[1] * b[1]).add_(a[2] * b[2])


@guarded
def non_diffeomorphic_volume(displacement_mm: torch.Tensor, grid: Grid, mask: torch.Tensor | None = None) -> float | None:
    """Percentage of folding volume, from ten finite-difference Jacobian determinants per voxel.

    Unlike the central-difference determinant, it detects every fold of the piecewise linear map and weights it by its size:
    ``100 / N * sum over voxels and schemes of -min(det, 0) / (2 * 6)``, where each of the two divisions of a cube into five
    tetrahedra has weight one half. In 2-D it is the area of the four corner triangles, ``-min(det, 0) / (2 * 2)``. As in the
    authors' implementation, voxels at the border of the grid are excluded because they lack neighbors.

    Source: Liu, Chen, Wei, Carass, Prince: On finite difference Jacobian computation in deformable image registration,
    IJCV 2024, https://arxiv.org/abs/2212.06060.

    Args:
        displacement_mm: ``(D, *grid.shape)``, RAS mm.
        mask: ``(*grid.shape)`` or ``(1, *grid.shape)``; voxels above zero are included, by default all.

    Returns:
        Percentage of the volume of the N mask voxels that are not at the border; ``None`` if there are none.

    Raises:
        ValueError: if shapes do not match or the field is not finite.
    """
    check_displacement(displacement_mm, grid)
    device = displacement_mm.device
    folded = FoldedVolume(grid, None if mask is None else spatial_mask(mask, grid.shape).to(device), device)
    dtype = torch.promote_types(displacement_mm.dtype, torch.float32)
    for rows in slabs(grid.shape, voxels_per_slab(device)):
        near = slice(max(rows.start - 1, 0), rows.stop + 1)
        folded.add(to_voxels(displacement_mm[:, near].to(dtype), grid), near.start)
    return folded.percent()


class FoldedVolume:
    """Sum of the negative determinants of all simplices, over slabs of a grid.

    Args:
        grid: the whole grid.
        mask: included voxels, ``(*grid.shape)`` bool; None for all.
        device: device of the slabs.
    """

    def __init__(self, grid: Grid, mask: torch.Tensor | None, device: torch.device) -> None:
        self.grid, self.mask = grid, mask
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        inner = tuple(slice(1, -1) for _ in grid.shape)
        self.count = math.prod(max(n - 2, 0) for n in grid.shape) if mask is None else mask[inner].sum()

    def add(self, u: torch.Tensor, start: int) -> None:
        """Add the voxels of a slab except those on its outermost planes.

        Args:
            u: displacement of the slab along the array axes, ``(D, planes, ...)``, voxels.
            start: first plane of the slab.
        """
        if min(u.shape[1:]) < 3:
            return
        u = u.detach()  # the sum is a number, and torch warns when one with a gradient is read
        # on flattened voxels, all neighbors are at fixed distances; those across a border belong to voxels that do not count
        neighbors = _Neighbors(u)
        chosen = torch.zeros(u.shape[1:], dtype=torch.bool, device=u.device)
        inner = tuple(slice(1, -1) for _ in self.grid.shape)
        chosen[inner] = True if self.mask is None else self.mask[start : start + u.shape[1]][inner]
        chosen = chosen.flatten()[neighbors.span]
        folded = neighbors.determinants()
        total = next(folded).clamp_(max=0)
        for values in folded:
            total += values.clamp_(max=0)
        self.total += torch.where(chosen, total, 0).sum(dtype=torch.float64)

    def percent(self) -> float | None:
        """Percentage of the volume of the included voxels that are not at the border; None if there are none."""
        total, count = float(self.total), int(self.count)
        return abs(100 * total / (4 if self.grid.dims == 2 else 12) / count) if count else None


class _Neighbors:
    """Edges to the neighbors of the voxels of a slab.

    Args:
        u: displacement, ``(D, *slab)``, voxels.

    Attributes:
        span: the flat indices of the voxels, ``(N,)``, which include all inner voxels.
    """

    def __init__(self, u: torch.Tensor) -> None:
        self.dims, self.flat = len(u), u.flatten(1)
        self.strides = [math.prod(u.shape[axis + 2 :]) for axis in range(self.dims)]
        farthest = self.strides[0] + self.strides[1]
        self.span = slice(farthest, self.flat.shape[1] - farthest)
        self.center = self.flat[:, self.span]

    def edge(self, offset: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return the mapped edge from each voxel to its neighbor at an offset, ``(D, N)``."""
        step = sum(o * s for o, s in zip(offset, self.strides, strict=True))
        out = self.flat[:, self.span.start + step : self.span.stop + step] - self.center
        for axis, o in enumerate(offset):
            if o:
                out[axis] += o
        return out

    def determinants(self) -> Iterator[torch.Tensor]:
        """Yield the signed volume times D! of each mapped simplex, ``(N,)``, positive for the identity."""
        axes = np.eye(self.dims, dtype=int)
        pairs = [[(sign, self.edge((sign * axis).tolist())) for sign in (1, -1)] for axis in axes]
        if self.dims == 2:
            for (s, a), (t, b) in product(*pairs):
                yield determinant((a, b)).mul_(s * t)
            return
        for (s, b), (t, c) in product(pairs[1], pairs[2]):
            normal = _cross(b, c)
            for sign, a in pairs[0]:
                yield _dot(a, normal).mul_(sign * s * t)
        for simplex in simplices(self.dims)[2**self.dims :]:
            orientation = 1 if np.linalg.det(np.array(simplex)) > 0 else -1
            yield determinant([self.edge(offset) for offset in simplex]).mul_(orientation)
