# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Masks and label maps on the grid of their image, including those without an affine of their own."""

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

MIN_MASK_OVERLAP = 0.5  # share of a mask on a grid of its own that should lie in its image's field of view


def mask_on_grid(source: ImageSource, role: str, grid: Grid, mode: str = "bilinear") -> torch.Tensor:
    """A mask of an image on the grid of that image.

    It is resampled where it lies on another grid, with a warning. An array or tensor without an affine, and a file without a
    place of its own, lie on the voxels of the image where they have its shape, see :func:`placed_like`.

    Args:
        source: see :func:`monai_locor.io.read_mask`; arrays may have the shape of the grid, without channel axis.
        role: ``"fixed"`` or ``"moving"``, for messages.
        grid: of its image.
        mode: of resampling, ``"bilinear"`` or ``"nearest"``.

    Returns:
        ``(1, *grid.shape)``, in [0, 1].

    Raises:
        InputError: when it cannot be read, has other dimensions or another plane than its image, or does not meet it.
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
    """A mask or label map of an image, on the image's voxels where it has their shape and no place of its own.

    No place means the default affine of arrays and pictures, or of NIfTI files without sform and qform. A volume that fills
    the field of view of the image in another order of its axes is left unchanged.

    Args:
        volume: ``(C, *spatial)``.
        grid: of the image.
        name: of the volume, for a warning.
        quiet: no warning, of arrays that cannot say where they lie.
    """
    own = Grid.of(volume)
    if own.shape != grid.shape or not own.placeless or same_grid(own, grid) or _same_box(own, grid):
        return volume
    if not quiet:
        logger.warning("%s: has no place in the world; it is taken to lie on the voxels of its image", name)
    return MetaTensor(plain(volume), meta={**volume.meta, "affine": torch.from_numpy(grid.full_affine)})


def _warn_beside(name: str, mask: torch.Tensor, source: Grid, grid: Grid) -> None:
    """Warn of a mask on a grid of its own that lies beside its image for the most part."""
    found = mask[0].cpu().nonzero()
    voxels = found[:: max(1, len(found) // 100_000)].double().numpy()
    points = torch.from_numpy(apply_affine(voxel_to_voxel(source, grid), voxels)).T
    share = float(inside(points, grid.shape, margin=-0.5).double().mean()) if points.numel() else 0.0
    if share < MIN_MASK_OVERLAP:
        text = "%s: only %.0f %% of it lies in the field of view of its image; check that they share world coordinates"
        doubt(logger, text, name, 100 * share)


def _same_box(a: Grid, b: Grid) -> bool:
    """Whether two grids of one shape have the same outermost voxels, in any order of their axes."""
    corners = apply_affine(np.linalg.inv(b.affine), a.corners())
    outermost = (np.minimum(np.abs(corners), np.abs(corners - (np.array(b.shape) - 1))) < 1e-2).all()
    return bool(outermost) and len(np.unique(corners.round(), axis=0)) == len(corners)
