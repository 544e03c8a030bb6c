# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Conversion of parts of a result to objects of nibabel, SimpleITK and ITK."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid
from ..io import write_displacement_field, write_image

__all__ = ["FIELDS", "IMAGES", "TRANSFORMS", "check_part", "importing", "nibabel_image"]

IMAGES = ("warped_moving", "warped_fixed")
FIELDS = ("forward_field", "inverse_field")
TRANSFORMS = ("transform", "inverse")


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
