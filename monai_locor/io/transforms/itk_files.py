# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""ITK transform files: ``.h5`` with any chain of transforms; ``.tfm``, ``.txt`` and ``.mat`` with an affine map.

An ITK composite applies its last transform to points first, ours its first. ITK files cannot store the inverse of a
displacement field, so a known inverse is written to a second file, ``<name>_inverse.h5``, and read with the first.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ...errors import InputError, one_line
from ...geometry import Grid, SpatialTransform, Step
from ..fields import write_affine
from ..itk_hdf5 import write_hdf5
from ..itk_transforms import read_itk_transforms
from ..paths import atomic_path
from .base import invalid, matrix_of
from .inverse_check import is_inverse
from .itk_steps import steps_of_transforms, transforms_of_steps

__all__ = ["inverse_path", "itk_files", "read_itk", "write_itk"]

logger = logging.getLogger(__name__)

_REMEDY = "compute it again"


def inverse_path(path: Path) -> Path:
    """Return the path of the inverse of an ``.h5`` file."""
    return path.with_name(f"{path.stem}_inverse{path.suffix}")


def itk_files(path: Path) -> list[Path]:
    """Return the files that writing to ``path`` may replace."""
    return [path, inverse_path(path)] if path.suffix.lower() in (".h5", ".hdf5") else [path]


def read_itk(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read any chain of linear transforms, displacement fields and cubic B-splines."""
    transform = SpatialTransform(_read_steps(path, name))
    back = inverse_path(path)
    if path.suffix.lower() in (".h5", ".hdf5") and not transform.is_affine and back.is_file():
        inverse = SpatialTransform(_read_steps(back, f"transform {back}"))
        if inverse.dims == transform.dims and is_inverse(inverse, transform):
            return SpatialTransform(transform.steps, inverse.steps)
        logger.warning("%s is left aside: it is not the inverse of %s", back, path)
    return transform


def _read_steps(path: Path, name: str) -> tuple[Step, ...]:
    transforms = read_itk_transforms(path, name)
    with invalid(name, _REMEDY):
        return steps_of_transforms(transforms, name)


def write_itk(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write the steps without resampling, and the inverse of a deformation, if known, to a second file."""
    if path.suffix.lower() not in (".h5", ".hdf5"):
        write_affine(path, matrix_of(transform, name))
        return [path]
    _write_steps(path, name, transform.steps)
    if transform.is_affine or transform.inverse_steps is None:
        return [path]
    _write_steps(inverse_path(path), name, transform.inverse_steps)
    return [path, inverse_path(path)]


def _write_steps(path: Path, name: str, steps: tuple[Step, ...]) -> None:
    try:
        with atomic_path(path) as temporary:
            write_hdf5(temporary, transforms_of_steps(steps), name)
    except RuntimeError as error:
        raise InputError(f"{name}: cannot be written ({one_line(error)}); is there room, and may you write there?") from error
