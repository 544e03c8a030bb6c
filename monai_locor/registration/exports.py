# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files of a result, and conversion of its parts to objects of nibabel, SimpleITK and ITK."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid
from ..io import check_output_dir, write_affine, write_displacement_field, write_image
from ..io.earlier_outputs import earlier_outputs, remove_outputs
from ..io.paths import write_json
from ..roles import ROLES
from .error_files import ERROR_FILE, write_error_map
from .manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from .result import RegistrationResult

__all__ = ["FIELDS", "IMAGES", "MISSING_FILES", "TRANSFORMS", "check_part", "importing", "nibabel_image", "write_files"]

IMAGES = ("warped_moving", "warped_fixed")
FIELDS = ("forward_field", "inverse_field")
TRANSFORMS = ("transform", "inverse")
MISSING_FILES = {role: f"missing_{role}.nii.gz" for role in ROLES}


def check_part(what: str, choices: tuple[str, ...]) -> None:
    """Raise InputError unless ``what`` is one of the parts of a result."""
    if what not in choices:
        raise InputError(f"{what!r} cannot be converted; choose one of {', '.join(choices)}")


@contextlib.contextmanager
def importing(library: str, package: str) -> Iterator[None]:
    """Raise InputError if the library is not installed; the message names its package."""
    try:
        yield
    except ImportError as error:
        raise InputError(f"{library} is not installed ({error}); pip install {package}") from error


def nibabel_image(values: torch.Tensor, grid: Grid, vectors: bool = False) -> nib.Nifti1Image:
    """Return an image or a displacement field as a NIfTI image, as written to files.

    Args:
        values: intensities ``(C, *grid)``; with ``vectors``, displacements ``(D, *grid)``, RAS mm.
        grid: grid of the values.
        vectors: store the values as vectors (intent 1007), in LPS mm.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.nii")
        write = write_displacement_field if vectors else write_image
        write(path, values, grid)
        image = nib.load(path)
        assert isinstance(image, nib.Nifti1Image)
        return nib.Nifti1Image(np.array(image.dataobj), image.affine, image.header)


def write_files(result: RegistrationResult, folder: str | PathLike[str]) -> list[Path]:
    """Write the files of a result, each atomically; see its ``save``."""
    warped = result.held("warped_moving")  # raises before anything is removed
    root = check_output_dir(folder)
    root.mkdir(parents=True, exist_ok=True)
    earlier = earlier_outputs(root)  # none without run.json: files may be of this result, or of the user
    remove_outputs(earlier)
    names = ("warped.nii.gz", "forward_field.nii.gz", "inverse_field.nii.gz", "affine.tfm")
    paths = [root / name for name in names]
    write_image(paths[0], warped, result.fixed_grid)
    write_displacement_field(paths[1], result.forward_mm, result.fixed_grid)
    write_displacement_field(paths[2], result.inverse_mm, result.moving_grid)
    write_affine(paths[3], result.affine)
    maps = {"fixed": (result.missing_fixed, result.fixed_grid), "moving": (result.missing_moving, result.moving_grid)}
    for role, (probability, grid) in maps.items():
        if probability is not None:
            paths.append(root / MISSING_FILES[role])
            write_image(paths[-1], probability, grid)
    if result.error_mm is not None:
        paths += write_error_map(root / ERROR_FILE, result.error_mm)
    if result.basis is not None and root / "basis.safetensors" in earlier:  # of a loaded result that is saved again
        paths += result.save_basis(root / "basis")
    write_json(root / MANIFEST_NAME, result.summary())  # last, so its presence means a complete result
    return [*paths, root / MANIFEST_NAME]
