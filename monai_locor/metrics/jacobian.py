# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Jacobian determinant and folding of a displacement field in millimeters."""

from __future__ import annotations

import numpy as np
import torch

from ..geometry import Grid, slabs, to_voxels
from ..precision import guarded
from .arrays import LOG_RANGE
from .ndv import determinant, non_diffeomorphic_volume
from .selection import check_displacement, select

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
    double = displacement_mm.dtype == torch.float64
    out = torch.empty(grid.shape, dtype=torch.float64 if double else torch.float32, device=displacement_mm.device)
    for rows in slabs(grid.shape):
        near = slice(max(rows.start - 1, 0), rows.stop + 1)
        u = to_voxels(displacement_mm[:, near].to(out.dtype), grid)
        columns = [torch.gradient(u, dim=axis + 1)[0] if n > 1 else torch.zeros_like(u) for axis, n in enumerate(grid.shape)]
        for axis, column in enumerate(columns):
            column[axis] += 1
        out[rows] = determinant(columns)[rows.start - near.start :][: rows.stop - rows.start]
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
    values = select(jacobian_determinant(displacement_mm, grid), mask).double()
    ordered = values.sort().values
    low, middle, high = (float(ordered[round(q * (len(ordered) - 1))]) for q in (0.01, 0.5, 0.99))
    folding = int((ordered <= 0).sum())
    return {
        "min": float(ordered[0]),
        "p01": low,
        "p50": middle,
        "p99": high,
        "max": float(ordered[-1]),
        "std_log": float(ordered.clamp(*LOG_RANGE).log().std(correction=0)),
        "folding_voxels": folding,
        "folding_percent": 100 * folding / len(ordered),
        "ndv": non_diffeomorphic_volume(displacement_mm, grid, mask),
    }
