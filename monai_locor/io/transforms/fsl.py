# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""FSL: relative and absolute warps, FNIRT coefficients and FLIRT matrices.

A warp is sampled on the grid of the reference (fixed) image. An absolute warp holds positions in the input (moving) image, a
relative warp their offsets from the positions of the voxels, both in FSL coordinates. A FLIRT matrix maps positions in the
input image to positions in the reference image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry import FieldStep, Grid, SpatialTransform, apply_affine
from ..nifti import load_nifti, nifti_affine, save_nifti
from ..paths import atomic_path
from .base import check_grid, domain_of, invalid, matrix_of, read_matrix_text, undecided
from .fsl_coefficients import CUBIC_INTENT, OTHER_BASIS_INTENTS, coefficients
from .fsl_space import from_fsl, positions

__all__ = [
    "COEFFICIENT_INTENTS",
    "FIELD_INTENT",
    "read_absolute",
    "read_flirt",
    "read_fsl",
    "read_relative",
    "write_absolute",
    "write_flirt",
    "write_relative",
]

FIELD_INTENT = 2006
COEFFICIENT_INTENTS = (CUBIC_INTENT, *OTHER_BASIS_INTENTS)


def read_fsl(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a warp, or FNIRT coefficients, which also need the fixed image.

    The header does not distinguish relative from absolute warps: the interpretation with the more uniform displacements is
    used, and an error raised if the difference is small. FSL's tools make this comparison in FSL coordinates, which fails for
    images whose axes point in different directions.
    """
    image = load_nifti(path)
    if int(image.header["intent_code"]) in COEFFICIENT_INTENTS:
        return coefficients(image, name, fixed, check_grid(moving, "moving", name))
    readings = sorted(_readings(path, name, moving, (False, True)), key=_unevenness)
    if _unevenness(readings[0]) > 0.5 * _unevenness(readings[1]):
        raise undecided(name, "a warp of FSL", {"fsl-rel": "displacements", "fsl-abs": "positions"})
    return readings[0]


def read_relative(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a relative warp (displacements)."""
    return _readings(path, name, moving, (False,))[0]


def read_absolute(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read an absolute warp (positions)."""
    return _readings(path, name, moving, (True,))[0]


def _unevenness(transform: SpatialTransform) -> float:
    field = transform.steps[0]
    assert isinstance(field, FieldStep)
    return float(np.linalg.norm(field.array.reshape(3, -1).std(1)))


def _readings(path: Path, name: str, moving: Grid | None, absolute: tuple[bool, ...]) -> list[SpatialTransform]:
    moving = check_grid(moving, "moving", name)
    with invalid(name, "is it complete, and a warp of FSL?"):
        image = load_nifti(path)
        if image.ndim != 4 or image.shape[3] != 3:
            raise InputError(f"{name}: has shape {image.shape}; a warp of FSL has (X, Y, Z, 3)")
        data = np.asarray(image.dataobj, dtype=np.float64)
        grid = Grid(image.shape[:3], nifti_affine(image))
        own = positions(grid)
        worlds = [apply_affine(from_fsl(moving), data if whole else own + data) for whole in absolute]
        return [SpatialTransform.of_field(np.moveaxis(world - grid.points(), -1, 0), grid) for world in worlds]


def write_relative(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write a relative warp for ``applywarp --rel``."""
    grid, ends = _ends(name, transform, fixed, moving)
    return _save(path, ends - positions(grid), grid)


def write_absolute(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write an absolute warp for ``applywarp --abs``."""
    grid, ends = _ends(name, transform, fixed, moving)
    return _save(path, ends, grid)


def _ends(name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> tuple[Grid, np.ndarray]:
    """Return the fixed grid and the mapped position of each of its voxels in FSL coordinates of the moving image."""
    grid, moving = domain_of(transform, fixed, name), check_grid(moving, "moving", name)
    _solid(transform, name)
    world = grid.points() + np.moveaxis(transform.displacement(grid).cpu().double().numpy(), 0, -1)
    return grid, apply_affine(np.linalg.inv(from_fsl(moving)), world)


def _save(path: Path, values: np.ndarray, grid: Grid) -> list[Path]:
    save_nifti(path, values.astype(np.float32), grid, intent="fnirt disp field")
    return [path]


def _solid(transform: SpatialTransform, name: str) -> None:
    if transform.dims != 3:
        raise InputError(f"{name}: the transform has {transform.dims} dimensions, and FSL three; write .h5 or .nii.gz instead")


def read_flirt(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a FLIRT matrix, which maps moving to fixed positions."""
    fixed, moving = check_grid(fixed, "fixed", name), check_grid(moving, "moving", name)
    with invalid(name, "compute it again"):
        matrix = np.linalg.inv(read_matrix_text(path, name))
        return SpatialTransform.of_affine(from_fsl(moving) @ matrix @ np.linalg.inv(from_fsl(fixed)))


def write_flirt(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write a matrix for ``flirt -applyxfm -init``, with two spaces after every number, as FSL does."""
    fixed, moving = check_grid(fixed, "fixed", name), check_grid(moving, "moving", name)
    _solid(transform, name)
    matrix = np.linalg.inv(np.linalg.inv(from_fsl(moving)) @ matrix_of(transform, name) @ from_fsl(fixed))
    with atomic_path(path) as temporary:
        temporary.write_text("".join("".join(f"{v:.12g}  " for v in row) + "\n" for row in matrix))
    return [path]
