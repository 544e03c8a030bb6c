# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Masks and label maps on the grid of their image, including those without an affine."""

from __future__ import annotations

import logging

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import Grid, apply_affine, check_planes, inside, same_grid, voxel_to_voxel, warp
from ..run_log import doubt
from ..tensors import plain
from .arrays import bare_array
from .image_source import ImageSource
from .images import read_mask

__all__ = ["mask_on_grid", "placed_like"]

logger = logging.getLogger(__name__)

MIN_MASK_OVERLAP = 0.5  # fraction of a mask that should be in its image's field of view


def mask_on_grid(source: ImageSource, role: str, grid: Grid, mode: str = "bilinear") -> torch.Tensor:
    """Read a mask on the grid of its image.

    A mask on another grid is resampled with a warning. Arrays, tensors and files without an affine get the grid of the
    image if they have its shape, see :func:`placed_like`.

    Args:
        source: see :func:`monai_locor.io.read_mask`; arrays may have the shape of the grid, without channel axis.
        role: ``"fixed"`` or ``"moving"``, for messages.
        grid: grid of the image.
        mode: interpolation, ``"bilinear"`` or ``"nearest"``.

    Returns:
        ``(1, *grid.shape)``, in [0, 1].

    Raises:
        InputError: if it cannot be read, differs from its image in dimensions or plane, or does not overlap it.
    """
    bare = bare_array(source)
    if bare is not None and tuple(bare.shape) == grid.shape:
        source = bare[None]
    given = read_mask(source, role)
    name = f"{role} mask {given.meta['filename_or_obj']}".rstrip()
    given = placed_like(given, grid, name, quiet=bare is not None)
    own, weight = Grid.of(given), plain(given)
    if own.dims != grid.dims:
        raise InputError(f"{name}: has shape {own.shape}, its image {grid.shape}; both must be 2-D or both 3-D")
    check_planes(own, grid, (name, "its image"))
    if not same_grid(own, grid):
        logger.warning("%s: lies on another grid than its image and is resampled", name)
        _warn_beside(name, weight, own, grid)
        weight = warp(weight, own, None, grid, mode)
    if float(weight.sum()) == 0:
        raise InputError(f"{name}: does not meet its image, no voxel is left; check that they share world coordinates")
    return weight


def placed_like(volume: MetaTensor, grid: Grid, name: str, quiet: bool = False) -> MetaTensor:
    """Assign the grid of an image to a mask or label map that has the same shape and only a default affine.

    This is the default affine of arrays and pictures, or of NIfTI files without sform and qform. A volume with the same field
    of view as the image in another axis order is returned unchanged.

    Args:
        volume: ``(C, *spatial)``.
        grid: grid of the image.
        name: name of the volume, for the warning.
        quiet: suppress the warning, for arrays, which cannot have an affine.
    """
    own = Grid.of(volume)
    if own.shape != grid.shape or not own.placeless or same_grid(own, grid) or _same_box(own, grid):
        return volume
    if not quiet:
        logger.warning("%s: has no place in the world; it is taken to lie on the voxels of its image", name)
    return MetaTensor(plain(volume), meta={**volume.meta, "affine": torch.from_numpy(grid.full_affine)})


def _warn_beside(name: str, mask: torch.Tensor, source: Grid, grid: Grid) -> None:
    """Warn if most of a mask is outside the field of view of its image."""
    found = mask[0].cpu().nonzero()
    voxels = found[:: max(1, len(found) // 100_000)].double().numpy()
    points = torch.from_numpy(apply_affine(voxel_to_voxel(source, grid), voxels)).T
    share = float(inside(points, grid.shape, margin=-0.5).double().mean()) if points.numel() else 0.0
    if share < MIN_MASK_OVERLAP:
        text = "%s: only %.0f %% of it lies in the field of view of its image; check that they share world coordinates"
        doubt(logger, text, name, 100 * share)


def _same_box(a: Grid, b: Grid) -> bool:
    """Whether two grids of the same shape have the same corners, in any axis order."""
    corners = apply_affine(np.linalg.inv(b.affine), a.corners())
    outermost = (np.minimum(np.abs(corners), np.abs(corners - (np.array(b.shape) - 1))) < 1e-2).all()
    return bool(outermost) and len(np.unique(corners.round(), axis=0)) == len(corners)
