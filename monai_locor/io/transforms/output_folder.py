# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading of the transform from an output folder of ``register``, from whichever of its files exist."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry import Grid, SpatialTransform
from ..ome_zarr import is_ome_zarr
from ..paths import FORWARD, INVERSE, ZARR_FORWARD, ZARR_INVERSE, read_json
from .ants import ants_files, read_ants
from .base import Reader
from .itk_fields import read_nifti
from .itk_files import read_itk
from .zarr_fields import read_zarr_field, read_zarr_folder

__all__ = ["MANIFEST", "affine_of_run", "files_in", "folder_of", "has_deformation", "read_folder"]

logger = logging.getLogger(__name__)

COMPOSITE, ANTS, AFFINE, MANIFEST = "transform.h5", "ants_", "affine.tfm", "run.json"  # written by register


def folder_of(path: Path) -> Path | None:
    """Return the path itself if it is a folder, the folder of a ``run.json``, or None for other files."""
    if path.name == MANIFEST and path.is_file():
        return path.parent
    return path if path.is_dir() else None


def files_in(folder: Path) -> list[Path]:
    """Return the transform files in a folder, in order of preference; an empty list if there are none."""
    named = [folder / name for name in (FORWARD, INVERSE, COMPOSITE)]
    named += [*ants_files(folder / ANTS), *ants_files(folder), folder / AFFINE]
    found = [path for path in named if path.is_file()]
    fields = [folder / name for name in (ZARR_FORWARD, ZARR_INVERSE)]
    return found + [path for field in fields for path in sorted(field.rglob("*")) if path.is_file()]


def has_deformation(folder: Path) -> bool:
    """Whether a folder has a transform file other than affine maps."""
    affine = {folder / AFFINE, *(ants_files(prefix)[0] for prefix in (folder, folder / ANTS))}
    return any(path not in affine for path in files_in(folder))


def read_folder(folder: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read the first available of: forward field (with the inverse field), as NIfTI or OME-Zarr; ``transform.h5``; ANTs
    files; inverse field alone; ``affine.tfm``, with a warning if the deformation is missing; the matrix in ``run.json`` of an
    affine registration.

    Raises:
        InputError: if none exists, or if it cannot be read.
    """
    fields = _fields(folder, name, fixed, moving)
    if fields is not None:
        return fields
    if (folder / COMPOSITE).is_file():
        return _read(read_itk, folder / COMPOSITE, fixed, moving)
    for prefix in (folder / ANTS, folder):
        if any(file.is_file() for file in ants_files(prefix)[:2]):
            _warn_of_part(folder, ants_files(prefix)[0])
            return read_ants(prefix, name, fixed, moving)
    if (folder / INVERSE).is_file():
        return _read(read_nifti, folder / INVERSE, moving, fixed).inverse(fixed)
    linear = affine_of_run(folder)
    if (folder / AFFINE).is_file():
        _warn_of_part(folder, folder / AFFINE)
        return _read(read_itk, folder / AFFINE, fixed, moving)
    if linear is not None:
        return SpatialTransform.of_affine(linear)
    if (folder / MANIFEST).is_file():
        raise InputError(
            f"{name}: has {MANIFEST}, but no transform beside it; repeat the registration with "
            f"monai-locor register --from {folder / MANIFEST} -o ANOTHER"
        )
    raise InputError(f"{name}: is a folder without a transform; give an output folder of register, or a file")


def _fields(folder: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform | None:
    """Read the forward field, with the inverse field; None if there is none. The folder may itself be a field in OME-Zarr."""
    if is_ome_zarr(folder):
        return read_zarr_field(folder, name)
    if (folder / ZARR_FORWARD).is_dir():
        return read_zarr_folder(folder)
    if not (folder / FORWARD).is_file():
        return None
    forward = _read(read_nifti, folder / FORWARD, fixed, moving)
    if not (folder / INVERSE).is_file():
        return forward
    return SpatialTransform(forward.steps, _read(read_nifti, folder / INVERSE, moving, fixed).steps)


def _warn_of_part(folder: Path, affine: Path) -> None:
    """Warn if the deformation is missing; not for ANTs files without ``run.json``, which may be the complete ANTs output."""
    ours = affine.name == AFFINE or (folder / MANIFEST).is_file()
    if ours and not has_deformation(folder) and affine_of_run(folder) is None:
        logger.warning("%s: only %s is there, the affine part of the registration; it is used alone", folder, affine.name)


def affine_of_run(folder: Path) -> np.ndarray | None:
    """Return the matrix in ``run.json`` of a registration without deformation; None for others."""
    try:
        content = read_json(folder / MANIFEST)
        deformable = content["settings"]["transform"] == "deformable"
        return None if deformable else np.array(content["affine"], dtype=np.float64)
    except (OSError, ValueError, LookupError, TypeError):  # `register --from` and `report` report the error
        return None


def _read(reader: Reader, path: Path, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    return reader(path, f"transform {path}", fixed, moving)
