# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reorientation of tensors by preservation of the principal direction.

Alexander, Pierpaoli, Basser and Gee 2001, Spatial transformations of diffusion tensor magnetic resonance images,
doi 10.1109/42.963816.
"""

from __future__ import annotations

import numpy as np
import torch

from ..precision import guarded
from ..tensors import on_device
from .grid import Grid
from .partition import slabs

__all__ = ["jacobian_matrices", "turned_tensors"]

TENSOR_ROWS, TENSOR_COLUMNS = (0, 1, 1, 2, 2, 2), (0, 0, 1, 0, 1, 2)  # lower triangle, row by row, as in NIfTI


@guarded
def jacobian_matrices(displacement_mm: torch.Tensor, grid: Grid) -> torch.Tensor:
    """d(x + u)/dx in world space by central differences (one-sided at the borders), ``(*grid.shape, D, D)`` float64.

    Args:
        displacement_mm: ``u``, ``(D, *grid.shape)``, RAS mm; taken as constant along axes of one voxel.
    """
    u = displacement_mm.double()
    columns = [torch.gradient(u, dim=axis + 1)[0] if n > 1 else torch.zeros_like(u) for axis, n in enumerate(grid.shape)]
    by_voxel = torch.stack(columns, 1).movedim((0, 1), (-2, -1))
    return by_voxel @ on_device(np.linalg.inv(grid.affine[:-1, :-1]), u) + torch.eye(grid.dims, dtype=u.dtype, device=u.device)


@guarded
def turned_tensors(
    tensors: torch.Tensor,
    displacement_mm: torch.Tensor,
    grid: Grid,
    axes: tuple[np.ndarray, np.ndarray] | None = None,
) -> torch.Tensor:
    """Reorient symmetric tensors that were resampled to a fixed grid, preserving their principal direction.

    The eigenvalues are kept. The first eigenvector is mapped by the inverse of the local Jacobian; the second stays in the
    plane of the first two mapped eigenvectors.

    Args:
        tensors: ``(6, *grid.shape)``: xx, xy, yy, xz, yz, zz.
        displacement_mm: displacement used for resampling, ``(3, *grid.shape)``, RAS mm, from fixed to moving points.
        grid: the fixed grid.
        axes: directions (columns, ``(3, 3)``, RAS) of the tensors' x, y and z in the moving and in the fixed image; by
            default the world axes for both.

    Returns:
        ``(6, *grid.shape)`` with the dtype of the tensors. Tensors that are not finite, or where the Jacobian is singular,
        are unchanged.
    """
    first, second = (np.eye(3), np.eye(3)) if axes is None else axes
    jacobian = jacobian_matrices(displacement_mm, grid)
    out = torch.empty_like(tensors)
    for rows in slabs(grid.shape):
        whole = _full(tensors[:, rows].double())
        turned = _turned(_rebased(whole, first), jacobian[rows])
        turned = _rebased(turned, np.linalg.inv(second))
        turned = torch.where(torch.isfinite(turned).all(-1).all(-1)[..., None, None], turned, whole)
        out[:, rows] = torch.stack([turned[..., i, j] for i, j in zip(TENSOR_ROWS, TENSOR_COLUMNS, strict=True)]).to(out)
    return out


def _full(lower: torch.Tensor) -> torch.Tensor:
    """Symmetric matrices ``(*S, 3, 3)`` from components ``(6, *S)``."""
    out = lower.new_empty(*lower.shape[1:], 3, 3)
    for value, i, j in zip(lower, TENSOR_ROWS, TENSOR_COLUMNS, strict=True):
        out[..., i, j] = out[..., j, i] = value
    return out


def _rebased(tensors: torch.Tensor, axes: np.ndarray) -> torch.Tensor:
    change = on_device(axes, tensors)
    return change @ tensors @ change.mT


def _turned(tensors: torch.Tensor, jacobian: torch.Tensor) -> torch.Tensor:
    """Reorient tensors ``(*S, 3, 3)`` of the moving image by the Jacobian of the map from fixed to moving points."""
    finite = torch.isfinite(tensors).all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], tensors, 0))  # ascending
    inverse = torch.linalg.inv_ex(jacobian).inverse
    moved = inverse @ vectors
    principal = torch.nn.functional.normalize(moved[..., 2], dim=-1)
    middle = moved[..., 1] - (moved[..., 1] * principal).sum(-1, keepdim=True) * principal
    middle = torch.nn.functional.normalize(middle, dim=-1)
    frame = torch.stack((torch.linalg.cross(principal, middle), middle, principal), -1)
    out = (frame * values[..., None, :]) @ frame.mT
    turns = finite & (torch.linalg.det(jacobian).abs() > 1e-6)
    return torch.where(turns[..., None, None], out, torch.nan)
