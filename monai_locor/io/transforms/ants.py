# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The output files of an ANTs registration: ``<prefix>0GenericAffine.mat``, ``1Warp.nii.gz`` and ``1InverseWarp.nii.gz``.

Points of the fixed image are mapped by the warp and then by the affine map; points of the moving image by the inverse of
the affine map and then by the inverse warp. Both warps are sampled on the fixed grid. Thus
``antsApplyTransforms -t <prefix>1Warp.nii.gz -t <prefix>0GenericAffine.mat`` resamples the moving image to the fixed image,
and ``-t [<prefix>0GenericAffine.mat,1] -t <prefix>1InverseWarp.nii.gz`` the fixed image to the moving image.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...geometry import AffineStep, FieldStep, Grid, SpatialTransform, Step
from ..fields import load_displacement_field, read_affine, write_affine, write_displacement_field
from ..nifti import has_shear
from .base import domain_of, invalid

__all__ = ["ants_files", "read_ants", "write_ants"]

AFFINE, WARP, INVERSE = "0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz"


def ants_files(prefix: Path) -> list[Path]:
    """The paths of the affine map, the warp and the inverse warp for a prefix or a folder."""
    return [prefix / end if prefix.is_dir() else prefix.with_name(prefix.name + end) for end in (AFFINE, WARP, INVERSE)]


def read_ants(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read whichever of the three files exist; the inverse warp is optional."""
    affine, warp, inverse = ants_files(path)
    if not affine.is_file() and not warp.is_file():
        raise InputError(f"{name}: neither {affine.name} nor {warp.name} is there; give the prefix of an ANTs registration")
    with invalid(name, "compute it again"):
        linear: tuple[AffineStep, ...] = (AffineStep(read_affine(affine)),) if affine.is_file() else ()
        if not warp.is_file():
            return SpatialTransform(linear)
        steps: tuple[Step, ...] = (FieldStep(*load_displacement_field(warp)), *linear)
        if not inverse.is_file():
            return SpatialTransform(steps)
        back: tuple[Step, ...] = tuple(step.inverted() for step in linear)
        return SpatialTransform(steps, (*back, FieldStep(*load_displacement_field(inverse))))


def write_ants(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write the transform as an affine map and a warp on the fixed grid, with the inverse warp on the same grid."""
    affine, warp, inverse = ants_files(path)
    if transform.is_affine:
        write_affine(affine, transform.matrix)
        return [affine]
    grid = domain_of(transform, fixed, name)
    if has_shear(grid):
        raise InputError(
            f"{name}: the axes of the fixed image are not at right angles, which ANTs, reading NIfTI through ITK, makes "
            "straight; give a fixed image with right angles, or write .h5 or .nrrd"
        )
    residual, linear = transform.split(grid).steps
    assert isinstance(residual, FieldStep) and isinstance(linear, AffineStep)
    back = SpatialTransform((residual,)).inverse(grid)  # a known inverse may not cover the fixed grid
    write_affine(affine, linear.matrix)
    write_displacement_field(warp, residual.displacement, grid)
    write_displacement_field(inverse, back.displacement(grid), grid)
    return [affine, warp, inverse]
