# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Application of spatial transforms to points, grids and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from ..precision import guarded
from ..tensors import as_tensor, on_device, plain
from .comparison import same_grid
from .grid import Grid, apply_affine, voxel_to_voxel
from .intensities import warp_intensities
from .inversion import fitted_affine, inverted_step
from .partition import grid_slabs
from .reorientation import turned_tensors
from .sampling import identity_points
from .steps import AffineStep, FieldStep, Step, world_points
from .warping import EXACT_MODES, from_voxels, to_voxels, warp

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

__all__ = [
    "ddf_of_displacement",
    "displacement",
    "displacement_of_affine",
    "displacement_of_ddf",
    "inverted",
    "mapped",
    "nearest_affine",
    "warped",
    "warped_tensors",
]

Points = TypeVar("Points", torch.Tensor, np.ndarray)


def displacement_of_affine(matrix: np.ndarray, grid: Grid) -> torch.Tensor:
    """Displacement of an affine map at the voxels of a grid, ``(D, *grid)`` float32, RAS mm.

    Args:
        matrix: ``(D + 1, D + 1)``, of world points.
        grid: 2-D or 3-D.
    """
    points = grid.points()
    return torch.from_numpy(np.moveaxis(apply_affine(matrix, points) - points, -1, 0)).float()


@guarded
def displacement_of_ddf(ddf: torch.Tensor, grid: Grid, moving: Grid | None) -> torch.Tensor:
    """See :meth:`monai_locor.geometry.SpatialTransform.of_ddf`; float64, RAS mm."""
    ddf = plain(ddf).double()
    if moving is None:
        return from_voxels(ddf, grid)
    index = identity_points(grid.shape, ddf.device, torch.float64) + ddf
    offset = on_device(moving.affine[:-1, -1] - grid.affine[:-1, -1], ddf).reshape(-1, *[1] * grid.dims)
    start = from_voxels(identity_points(grid.shape, ddf.device, torch.float64), grid)
    return from_voxels(index, moving) - start + offset


@guarded
def ddf_of_displacement(displacement_mm: torch.Tensor, grid: Grid, moving: Grid | None) -> torch.Tensor:
    """See :meth:`monai_locor.geometry.SpatialTransform.ddf`."""
    shift = displacement_mm.double()
    if moving is None:
        return to_voxels(shift, grid).float()
    index = identity_points(grid.shape, shift.device, torch.float64)
    change = on_device(voxel_to_voxel(grid, moving), shift)
    still = torch.tensordot(change[:-1, :-1], index, dims=1) + change[:-1, -1].reshape(-1, *[1] * grid.dims)
    return (still - index + to_voxels(shift, moving)).float()


@guarded
def mapped(steps: Sequence[Step], points: Points) -> Points:
    """Apply all steps to points ``(N, D)``, tensor or array; float64."""
    dims = steps[0].dims
    given = as_tensor(points)
    if given.ndim != 2 or given.shape[1] != dims:
        raise ValueError(f"points must be (N, {dims}), got {tuple(given.shape)}")
    out = _apply(steps, given.double()).to(given.device)
    return out if isinstance(points, torch.Tensor) else out.numpy()


def _apply(steps: Sequence[Step], points: torch.Tensor) -> torch.Tensor:
    for step in steps:
        points = step.apply(points)
    return points


@guarded
@torch.no_grad()
def displacement(steps: Sequence[Step], grid: Grid) -> torch.Tensor:
    """All steps as a displacement on a grid, ``(D, *grid.shape)`` float32, RAS mm."""
    first = steps[0]
    known = first.displacement if isinstance(first, FieldStep) and same_grid(first.grid, grid) else None
    if known is not None and len(steps) == 1:
        return known
    parts = []
    for rows, part in grid_slabs(grid, "cpu" if known is None else known.device):
        start = world_points(part)
        if known is None:
            end = _apply(steps, start)
        else:  # no interpolation needed
            end = _apply(steps[1:], start.to(known.device) + known[:, rows].flatten(1).T)
        parts.append((end - start.to(end.device)).T.reshape(-1, *part.shape).float())
    return torch.cat(parts, 1)


def inverted(steps: Sequence[Step], grid: Grid | None) -> tuple[Step, ...]:
    """Steps of the inverse, see :meth:`monai_locor.geometry.SpatialTransform.inverse`."""
    back: list[Step] = []
    for step in reversed(steps):
        if isinstance(step, AffineStep):
            undone = step.inverted()
            back.append(undone)
            grid = None if grid is None else Grid(grid.shape, undone.matrix @ grid.affine)
        else:
            back.append(inverted_step(step, grid))
            grid = None  # earlier steps have their own grids
    return tuple(back)


def nearest_affine(steps: Sequence[Step], grid: Grid) -> np.ndarray:
    """The affine map that fits all steps best on a grid, ``(D + 1, D + 1)``."""
    points = world_points(grid.resampled(np.maximum(grid.spacing, grid.extent / 32)))
    return fitted_affine(points, _apply(steps, points).cpu())


@guarded
def warped(image: torch.Tensor, grid: Grid, displacement_mm: torch.Tensor, target: Grid, mode: str = "bilinear") -> MetaTensor:
    """Resample an image ``(C, *grid)`` to ``target`` through a displacement on ``target``.

    Outside the image the result has the image's smallest value, or zero for labels (modes ``"nearest"`` and ``"smooth"``).
    The dtype is kept: interpolated integers are rounded and clamped to the range of the type, bool masks are thresholded at
    0.5. Voxels that are NaN or infinite have no value, see :func:`.intensities.warp_intensities`. See
    :func:`monai_locor.geometry.warp` for the modes.
    """
    values = as_tensor(image).to(displacement_mm.device)
    where = (grid, displacement_mm, target)
    out = warp(values, *where, mode) if mode in EXACT_MODES else warp_intensities(values, *where, mode)
    affine = torch.from_numpy(target.full_affine)
    from monai.data.meta_tensor import MetaTensor  # takes seconds to import

    return MetaTensor(out, affine=affine)


@guarded
def warped_tensors(
    tensors: torch.Tensor, grid: Grid, displacement_mm: torch.Tensor, target: Grid, mode: str, axes: str
) -> MetaTensor:
    """See :meth:`monai_locor.geometry.SpatialTransform.warp_tensors`."""
    if axes not in ("voxels", "world"):
        raise ValueError(f"axes must be voxels or world, got {axes!r}")
    if len(tensors) != 6 or grid.dims != 3:
        raise ValueError(f"tensors must be (6, X, Y, Z), got {tuple(tensors.shape)}")
    values = as_tensor(tensors).to(displacement_mm.device)
    moved = warp(values, grid, displacement_mm, target, mode)  # zero outside: tensors have no smallest value
    directions = [g.affine[:3, :3] / g.spacing for g in (grid, target)] if axes == "voxels" else [np.eye(3), np.eye(3)]
    from monai.data.meta_tensor import MetaTensor

    turned = turned_tensors(moved, displacement_mm, target, (directions[0], directions[1]))
    return MetaTensor(turned, affine=torch.from_numpy(target.full_affine))
