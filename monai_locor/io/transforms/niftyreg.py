# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""NiftyReg: deformation (positions), displacement and cubic B-spline files.

All map points of the reference (fixed) image to points of the floating (moving) image, RAS mm. The intent name in the header
is ``NREG_TRANS``, and the first intent parameter is the type. Spline coefficients are positions, and the second node along
each axis is at the first voxel of the reference image.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from ...errors import InputError
from ...geometry import Grid, SpatialTransform, SplineStep, full_affine
from ..nifti import has_shear, load_nifti, nifti_affine
from ..paths import atomic_path
from .base import domain_of, invalid

__all__ = [
    "FORMAT_BY_TYPE",
    "is_niftyreg",
    "read_deformation",
    "read_displacement",
    "read_spline",
    "write_deformation",
    "write_displacement",
    "write_spline",
]

#: formats by ``intent_p1``
FORMAT_BY_TYPE = {0: "niftyreg-def", 1: "niftyreg-disp", 2: "niftyreg-cpp"}
_DEFORMATION, _DISPLACEMENT, _SPLINE = FORMAT_BY_TYPE
_VELOCITY = (3, 4, 5)


def read_deformation(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read positions of the reference voxels in the floating image, RAS mm."""
    values, grid = _load(path, name)
    return SpatialTransform.of_field(values - _positions(grid), grid)


def read_displacement(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read displacements of the reference voxels, RAS mm."""
    return SpatialTransform.of_field(*_load(path, name))


def read_spline(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a control point grid as a spline, without resampling."""
    values, grid = _load(path, name)
    return SpatialTransform((SplineStep(values - _positions(grid), grid),))


def _load(path: Path, name: str) -> tuple[np.ndarray, Grid]:
    """Load vectors ``(D, *shape)``, float64, and their grid."""
    with invalid(name, "is it complete, and a transform of NiftyReg?"):
        image = load_nifti(path)
        header = image.header
        if is_niftyreg(header) and int(header["intent_p1"]) in _VELOCITY:
            raise InputError(f"{name}: holds a velocity field; make a deformation of it with reg_transform -ref FIXED -def")
        dims = image.shape[-1] if image.ndim == 5 else 0
        if dims not in (2, 3) or image.shape[dims:4] != (1,) * (4 - dims):
            raise InputError(f"{name}: has shape {image.shape}; in NiftyReg's files it is (X, Y, Z, 1, 3) or (X, Y, 1, 1, 2)")
        data = np.asarray(image.dataobj, dtype=np.float64).reshape(*image.shape[:dims], dims)
        affine = nifti_affine(image)
        matrix = np.eye(dims + 1)
        matrix[:-1, :-1], matrix[:-1, -1] = affine[:dims, :dims], affine[:dims, 3]
        return np.moveaxis(data, -1, 0), Grid(data.shape[:-1], matrix)


def is_niftyreg(header: nib.nifti1.Nifti1Header) -> bool:
    """Whether a NIfTI header is that of a NiftyReg transform."""
    return bytes(header["intent_name"].item()).startswith(b"NREG_TRANS")


def _positions(grid: Grid) -> np.ndarray:
    """Return the world positions of all voxels, ``(D, *shape)``."""
    return np.moveaxis(grid.points(), -1, 0)


def write_deformation(
    path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None
) -> list[Path]:
    """Write the position of every fixed voxel in the moving image, RAS mm."""
    grid = domain_of(transform, fixed, name)
    return _save(path, transform.displacement(grid).cpu().numpy() + _positions(grid), grid, _DEFORMATION)


def write_displacement(
    path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None
) -> list[Path]:
    """Write the displacement of every fixed voxel, RAS mm."""
    grid = domain_of(transform, fixed, name)
    return _save(path, transform.displacement(grid).cpu().numpy(), grid, _DISPLACEMENT)


def write_spline(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write a spline unchanged if its lattice meets NiftyReg's convention, else a fit with a node at every fixed voxel."""
    from .splines import fitted_spline  # imports torch

    step = transform.steps[0]
    if len(transform.steps) > 1 or not isinstance(step, SplineStep) or not _starts_at(step.grid, fixed):
        step = fitted_spline(transform, domain_of(transform, fixed, name))
    return _save(path, step.array + _positions(step.grid), step.grid, _SPLINE)


def _starts_at(lattice: Grid, fixed: Grid | None) -> bool:
    """Whether a lattice has the axes of a grid, covers it, and has its second node along each axis at the first voxel."""
    if fixed is None:
        return True
    first = lattice.affine[:-1, :-1].sum(1) + lattice.affine[:-1, -1]
    along = lattice.affine[:-1, :-1] / lattice.spacing - fixed.affine[:-1, :-1] / fixed.spacing
    near = np.abs(first - fixed.affine[:-1, -1]).max() < 1e-3 * fixed.spacing.min()
    reach = lattice.spacing * (np.array(lattice.shape) - 3) >= fixed.spacing * (np.array(fixed.shape) - 1) - 1e-3
    return bool(np.abs(along).max() < 1e-4 and near and reach.all())


def _save(path: Path, values: np.ndarray, grid: Grid, kind: int) -> list[Path]:
    data = np.moveaxis(values.astype(np.float32), 0, -1).reshape(*grid.shape, *(1,) * (4 - grid.dims), grid.dims)
    image = nib.Nifti1Image(data, full_affine(grid.affine))
    image.header.set_xyzt_units("mm")
    image.header.set_intent("vector", (), name="NREG_TRANS")
    image.header["intent_p1"] = kind  # nibabel does not accept parameters for intent vector
    image.set_sform(image.affine, code="scanner")
    if not has_shear(grid):
        image.set_qform(image.affine, code="scanner")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
    return [path]
