# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Jacobian determinant and folding of a displacement field in millimeters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..geometry import Grid, slabs, to_voxels
from ..geometry.partition import voxels_per_slab
from ..precision import guarded
from .arrays import LOG_RANGE
from .ndv import FoldedVolume, determinant
from .selection import check_displacement, select, spatial_mask

__all__ = ["jacobian_determinant", "jacobian_statistics", "unmirrored"]


@guarded
def jacobian_determinant(displacement_mm: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Determinant of d(x + u)/dx in world space, by central differences (one-sided at the borders).

    The determinant does not depend on the coordinate system, so it is computed in voxels, and oblique, flipped and
    anisotropic grids need no special treatment. It is not a logarithm: 1 preserves volume, below 1 is compression, 0 or less
    is folding. Central differences miss folds between neighboring voxels; see ``ndv``.

    Args:
        displacement_mm: ``(D, *grid.shape)``, RAS mm, D = 2 or 3.

    Returns:
        ``(*grid.shape)``, dimensionless; float64 for float64 input, else float32. An axis of one voxel is treated as rigid.

    Raises:
        ValueError: if the displacement is not on the grid or not finite.
    """
    check_displacement(displacement_mm, grid)
    return _determinants(displacement_mm, grid)


def _determinants(displacement_mm: torch.Tensor, grid: Grid, folded: FoldedVolume | None = None) -> torch.Tensor:
    """Compute the determinant slab by slab and, with ``folded``, the folded volume as well."""
    displacement_mm = displacement_mm.detach()  # what writes into out= does not record gradients
    dtype = torch.float64 if displacement_mm.dtype == torch.float64 else torch.float32
    out = torch.empty(grid.shape, dtype=dtype, device=displacement_mm.device)
    for rows in slabs(grid.shape, voxels_per_slab(out.device)):
        near = slice(max(rows.start - 1, 0), rows.stop + 1)
        u = to_voxels(displacement_mm[:, near].to(dtype), grid)
        inner = slice(rows.start - near.start, rows.stop - near.start)
        columns = [_difference(u, axis)[:, inner] for axis in range(grid.dims)]
        for axis, column in enumerate(columns):
            column[axis] += 1
        out[rows] = determinant(columns)
        if folded is not None:
            folded.add(u, near.start)
    return out


def _difference(u: torch.Tensor, axis: int) -> torch.Tensor:
    """Central differences of ``(D, *slab)`` along an axis, one-sided at the ends; zero along an axis of one voxel."""
    n = u.shape[axis + 1]
    if n == 1:
        return torch.zeros_like(u)
    out, last = torch.empty_like(u), n - 1
    here, there = out.movedim(axis + 1, 0), u.movedim(axis + 1, 0)
    torch.sub(there[2:], there[:-2], out=here[1:last]).mul_(0.5)
    torch.sub(there[1], there[0], out=here[0])
    torch.sub(there[last], there[last - 1], out=here[last])
    return out


def unmirrored(displacement_mm: torch.Tensor, grid: Grid, affine: np.ndarray) -> torch.Tensor:
    """Undo the reflection of a mirroring affine part, so that the remaining folding is due to the deformation.

    Args:
        displacement_mm: ``u``, ``(D, *grid.shape)``, RAS mm.
        affine: ``(D + 1, D + 1)``, its affine part.

    Returns:
        ``u`` itself if the affine does not mirror; else the displacement to ``x + u`` with the sign of its first world
        coordinate flipped. Its Jacobian determinant has the opposite sign and the same magnitude.
    """
    if np.linalg.det(affine[:-1, :-1]) > 0:
        return displacement_mm
    out = displacement_mm.clone()
    out[0] = -out[0] - 2 * torch.from_numpy(grid.points()[..., 0]).to(out)
    return out


@guarded
def jacobian_statistics(
    displacement_mm: torch.Tensor, grid: Grid, mask: torch.Tensor | None = None
) -> dict[str, float | int | None]:
    """Statistics of the Jacobian determinant inside a mask.

    Args:
        displacement_mm: ``(D, *grid.shape)``, RAS mm.
        mask: ``(*grid.shape)`` or ``(1, *grid.shape)``; voxels above zero are included, by default all.

    Returns:
        ``min, p01, p50, p99, max`` of the determinant; ``std_log``, the standard deviation of its natural logarithm
        with the determinant clamped to [1e-9, 1e9] (Learn2Reg, Hering 2023, doi 10.1109/TMI.2022.3213983);
        ``folding_voxels`` and ``folding_percent``, voxels with zero or less; ``ndv``, the non-diffeomorphic volume as a
        percentage of the mask (Liu 2024), ``None`` if no mask voxel has all its neighbors on the grid.

    Raises:
        ValueError: if shapes do not match, the field is not finite or the mask is empty.
    """
    check_displacement(displacement_mm, grid)
    device = displacement_mm.device
    chosen = None if mask is None else spatial_mask(mask, grid.shape).to(device)
    folded = FoldedVolume(grid, chosen, device)
    found = _summary(select(_determinants(displacement_mm, grid, folded), chosen))
    return {**found, "ndv": folded.percent()}


def _summary(values: torch.Tensor) -> dict[str, float | int | None]:
    """Order statistics, logarithmic standard deviation and folding of determinants ``(N,)``, whose order is lost."""
    count, low, high = len(values), *values.aminmax()
    spread, folding = _log_spread(values), (values <= 0).sum()
    order = [low, *_of_ranks(values, [round(q * (count - 1)) for q in (0.01, 0.5, 0.99)]), high]
    numbers = torch.stack([x.double() for x in (*order, spread, folding)]).tolist()  # one copy
    names = ("min", "p01", "p50", "p99", "max", "std_log")
    folding_voxels = int(numbers[-1])
    return {
        **dict(zip(names, numbers, strict=False)),
        "folding_voxels": folding_voxels,
        "folding_percent": 100 * folding_voxels / count,
    }


def _log_spread(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the logarithm of ``(N,)``, in float64, with a part of the values at a time in memory."""
    parts = values.split(voxels_per_slab(values.device))
    mean = sum(part.clamp(*LOG_RANGE).double().log_().sum() for part in parts) / len(values)
    squares = sum((part.clamp(*LOG_RANGE).double().log_() - mean).square_().sum() for part in parts)
    return (squares / len(values)).sqrt()


def _of_ranks(values: torch.Tensor, ranks: Sequence[int]) -> list[torch.Tensor]:
    """The values of some ranks, counted from 0. On a CPU in place: a sort needs three times the memory of the values."""
    if values.device.type != "cpu":
        return [values.kthvalue(rank + 1).values for rank in ranks]
    values.numpy().partition(ranks)
    return [values[rank] for rank in ranks]
