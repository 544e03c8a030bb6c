# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Statistics of a displacement field without torch: NumPy versions of :mod:`.jacobian` and :mod:`.ndv`.

The command ``info`` uses them because importing torch would take longer than computing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ..geometry import Grid

__all__ = ["LOG_RANGE", "Simplex", "field_statistics", "jacobian_statistics_of_array", "simplices"]

LOG_RANGE = (1e-9, 1e9)  # as in the Learn2Reg evaluation, so that a folded voxel has a finite logarithm
VOXELS_PER_SLAB = 2**15  # few enough to stay in the cache

Simplex = tuple[tuple[int, ...], ...]


def simplices(dims: int) -> list[Simplex]:
    """Edges, in voxels, from a voxel to the other corners of each of its simplices."""
    axes = np.eye(dims, dtype=int)
    corners: list[Simplex] = [
        tuple(tuple(int(v) for v in sign * axis) for sign, axis in zip(signs, axes, strict=True))
        for signs in product((1, -1), repeat=dims)
    ]
    if dims == 2:  # four corner triangles, from both diagonals of a square
        return corners
    # eight corner tetrahedra, and the central tetrahedron of each of the two divisions of a cube into five
    return [*corners, ((-1, -1, 0), (-1, 0, -1), (0, -1, -1)), ((1, 1, 0), (0, 1, 1), (1, 0, 1))]


def field_statistics(displacement_mm: np.ndarray) -> dict[str, float]:
    """``mean``, ``p95`` and ``max`` of the lengths of vectors ``(D, *shape)``, mm."""
    lengths = np.sqrt((displacement_mm.astype(np.float64) ** 2).sum(0)).ravel()
    last = len(lengths) - 1
    return {
        "mean": float(lengths.mean()),
        "p95": float(np.partition(lengths, round(0.95 * last))[round(0.95 * last)]),
        "max": float(lengths.max()),
    }


def jacobian_statistics_of_array(displacement_mm: np.ndarray, grid: Grid) -> dict[str, float | int | None]:
    """NumPy version of :func:`monai_locor.metrics.jacobian_statistics` over all voxels.

    Args:
        displacement_mm: ``(D, *grid.shape)``, float32, RAS mm, finite.
    """
    to_voxels = np.linalg.inv(grid.affine[:-1, :-1]).astype(displacement_mm.dtype)
    values, folded = [], 0.0
    rows = max(1, VOXELS_PER_SLAB // max(1, int(np.prod(grid.shape[1:]))))
    for start in range(0, grid.shape[0], rows):
        stop = min(start + rows, grid.shape[0])
        near = slice(max(start - 1, 0), min(stop + 1, grid.shape[0]))
        u = np.tensordot(to_voxels, displacement_mm[:, near], 1)
        values.append(_determinants(u)[start - near.start :][: stop - start].ravel())
        folded += _folded(u)
    numbers = np.concatenate(values).astype(np.float64)
    return {**_ordered(numbers), "ndv": _share(folded, grid)}


def _ordered(values: np.ndarray) -> dict[str, float | int | None]:
    last = len(values) - 1
    places = [round(q * last) for q in (0, 0.01, 0.5, 0.99, 1)]
    parted = np.partition(values, places)
    found: dict[str, float | int | None] = {
        name: float(parted[place]) for name, place in zip(("min", "p01", "p50", "p99", "max"), places, strict=True)
    }
    folding = int((values <= 0).sum())
    found["std_log"] = float(np.log(values.clip(*LOG_RANGE)).std())
    return {**found, "folding_voxels": folding, "folding_percent": 100 * folding / len(values)}


def _share(folded: float, grid: Grid) -> float | None:
    """The non-diffeomorphic volume as a percentage of the voxels that have all neighbors."""
    count = int(np.prod([max(n - 2, 0) for n in grid.shape]))
    return abs(100 * folded / (4 if grid.dims == 2 else 12) / count) if count else None


def _determinants(u: np.ndarray) -> np.ndarray:
    """Determinant of the identity plus the derivative of ``u``, by central differences, one-sided at the borders."""
    columns = []
    for axis in range(len(u)):
        column = _difference(u, axis + 1)
        column[axis] += 1
        columns.append(column)
    return _determinant(columns)


def _difference(u: np.ndarray, axis: int) -> np.ndarray:
    out = np.zeros_like(u)
    n = u.shape[axis]
    if n == 1:
        return out

    def at(first: int, last: int) -> tuple[slice, ...]:
        return (*(slice(None) for _ in range(axis)), slice(first, last))

    out[at(1, n - 1)] = (u[at(2, n)] - u[at(0, n - 2)]) / 2
    out[at(0, 1)] = u[at(1, 2)] - u[at(0, 1)]
    out[at(n - 1, n)] = u[at(n - 1, n)] - u[at(n - 2, n - 1)]
    return out


def _determinant(columns: Sequence[np.ndarray]) -> np.ndarray:
    if len(columns) == 2:
        (a, b), (c, d) = columns
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = columns
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)


def _folded(u: np.ndarray) -> float:
    """Sum of the negative determinants of all simplices at the inner voxels."""
    total, inner = 0.0, (slice(None), *(slice(1, n - 1) for n in u.shape[1:]))
    center = u[inner]
    if not center.size:
        return total
    moved: dict[tuple[int, ...], np.ndarray] = {}
    for simplex in simplices(len(u)):
        for edge in simplex:
            if edge not in moved:
                index = (slice(None), *(slice(1 + o, n - 1 + o) for o, n in zip(edge, u.shape[1:], strict=True)))
                moved[edge] = u[index] - center + np.array(edge, u.dtype).reshape(-1, *[1] * len(u))
        found = _determinant([moved[edge] for edge in simplex])
        if np.linalg.det(np.array(simplex)) < 0:
            found = -found
        total += float(np.minimum(found, 0).sum(dtype=np.float64))
    return total
