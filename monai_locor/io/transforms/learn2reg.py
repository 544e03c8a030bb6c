# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Learn2Reg displacement fields, in voxels: the fixed voxel ``x`` corresponds to the moving voxel ``x + u(x)``.

``disp_*.nii.gz`` holds an array ``(X, Y, Z, 3)``. ``disp_*.npz`` (2020 and 2021) holds one half-precision array
``(3, X/2, Y/2, Z/2)``: half the resolution with aligned corners, but in voxels of the full grid. The evaluation upsamples it
with ``scipy.ndimage.zoom(u, 2, order=2)``.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np

from ...errors import InputError
from ...geometry import Grid, SpatialTransform, apply_affine
from ..nifti import is_nifti, load_nifti, nifti_affine, save_nifti
from ..paths import atomic_path
from .base import check_grid, domain_of, invalid
from .nifti_vectors import VOXELS

__all__ = ["read_learn2reg", "write_learn2reg"]

_BYTES = 8  # per number, at most


def read_learn2reg(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a field in voxels of the moving image; without one, in voxels of the fixed image, as in the challenge."""
    with invalid(name, "is it complete, and a displacement field of Learn2Reg?"):
        field, grid = _from_nifti(path, name, fixed) if is_nifti(path) else _from_archive(path, name, fixed)
        return SpatialTransform.of_field(_in_mm(field, grid, moving or grid), grid)


def _in_mm(ddf: np.ndarray, grid: Grid, moving: Grid) -> np.ndarray:
    """Convert ``(3, *grid.shape)`` from moving voxels to RAS mm, like :meth:`SpatialTransform.of_ddf` but without torch."""
    axes = [np.arange(n, dtype=np.float64) for n in grid.shape]
    ends = np.stack(np.meshgrid(*axes, indexing="ij"), -1) + np.moveaxis(ddf, 0, -1)
    return np.moveaxis(apply_affine(moving.affine, ends) - grid.points(), -1, 0)


def _from_nifti(path: Path, name: str, fixed: Grid | None) -> tuple[np.ndarray, Grid]:
    image = load_nifti(path)
    if image.ndim != 4 or image.shape[3] != 3:
        raise InputError(f"{name}: has shape {image.shape}; a displacement field of Learn2Reg has (X, Y, Z, 3)")
    grid = _own_grid(image, name) if fixed is None else fixed
    if image.shape[:3] != grid.shape:
        raise InputError(f"{name}: has {image.shape[:3]} voxels, and the fixed image {grid.shape}; they must agree")
    return np.moveaxis(np.asarray(image.dataobj, dtype=np.float64), -1, 0), grid


def _own_grid(image: nib.nifti1.Nifti1Pair, name: str) -> Grid:
    if np.allclose(np.abs(image.affine), np.eye(4)):
        raise InputError(f"{name}: its header has no affine, as is common for Learn2Reg; give the fixed image as well")
    return Grid(image.shape[:3], nifti_affine(image))


def _from_archive(path: Path, name: str, fixed: Grid | None) -> tuple[np.ndarray, Grid]:
    grid = check_grid(fixed, "fixed", name)
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > 3 * math.prod(grid.shape) * _BYTES + 4096:
            raise InputError(f"{name}: holds more numbers than a field on {grid.shape} voxels has; give its fixed image")
    with np.load(path, allow_pickle=False) as archive:
        arrays = [archive[key] for key in archive.files]
    half = (3, *(n // 2 for n in grid.shape))
    if len(arrays) != 1 or arrays[0].shape not in (half, (3, *grid.shape)):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise InputError(f"{name}: holds arrays of shape {shapes}; needed is one of {half} for a fixed image of {grid.shape}")
    field = arrays[0].astype(np.float64)
    return (field if field.shape[1:] == grid.shape else _zoomed(field, grid.shape)), grid


def _zoomed(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    import torch

    from .splines import quadratic_zoom

    return quadratic_zoom(torch.from_numpy(field), shape).numpy()


def write_learn2reg(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write ``.nii.gz`` at full resolution, or ``.npz`` at half the resolution in half precision."""
    grid = domain_of(transform, fixed, name)
    if transform.dims != 3:
        raise InputError(f"{name}: the transform has {transform.dims} dimensions, and Learn2Reg three; write .nii.gz or .h5")
    field = transform.ddf(grid, moving).cpu()
    if is_nifti(path):
        save_nifti(path, np.moveaxis(field.numpy(), 0, -1), grid, about=VOXELS)
        return [path]
    if any(n % 2 for n in grid.shape):
        raise InputError(f"{name}: the layout has every other voxel, and {grid.shape} has an odd number; write .nii.gz instead")
    coarse = _zoomed(field.numpy(), tuple(n // 2 for n in grid.shape)).astype(np.float16)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, coarse)
    return [path]
