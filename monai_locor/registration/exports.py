# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Results as objects of nibabel, SimpleITK and ITK."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid
from ..io import write_displacement_field, write_image
from ..io.libraries import image_for_itk, image_for_simpleitk
from ..io.transforms.library_objects import itk_of_steps, simpleitk_of_steps

if TYPE_CHECKING:
    from .result import RegistrationResult

__all__ = ["to_itk", "to_nibabel", "to_simpleitk"]

_IMAGES = ("warped_moving", "warped_fixed")
_FIELDS = ("forward_field", "inverse_field")
_TRANSFORMS = ("transform", "inverse")


def to_nibabel(result: RegistrationResult, what: str) -> nib.Nifti1Image:
    """See :meth:`monai_locor.RegistrationResult.to_nibabel`."""
    _check(what, (*_IMAGES, *_FIELDS))
    with tempfile.TemporaryDirectory() as folder:  # what is written to files, and nothing else
        path = Path(folder, "image.nii")
        if what in _IMAGES:
            write_image(path, *_image(result, what))
        elif what == "forward_field":
            write_displacement_field(path, result.forward_mm, result.fixed_grid)
        else:
            write_displacement_field(path, result.inverse_mm, result.moving_grid)
        image = nib.load(path)
        assert isinstance(image, nib.Nifti1Image)
        return nib.Nifti1Image(np.array(image.dataobj), image.affine, image.header)


def to_simpleitk(result: RegistrationResult, what: str) -> Any:
    """See :meth:`monai_locor.RegistrationResult.to_sitk`."""
    _check(what, (*_TRANSFORMS, *_IMAGES))
    try:
        return image_for_simpleitk(*_image(result, what)) if what in _IMAGES else simpleitk_of_steps(_steps(result, what))
    except ImportError as error:
        raise InputError(f"SimpleITK is not installed ({error}); pip install SimpleITK") from error


def to_itk(result: RegistrationResult, what: str) -> Any:
    """See :meth:`monai_locor.RegistrationResult.to_itk`."""
    _check(what, (*_TRANSFORMS, *_IMAGES))
    try:
        return image_for_itk(*_image(result, what)) if what in _IMAGES else itk_of_steps(_steps(result, what))
    except ImportError as error:
        raise InputError(f"ITK is not installed ({error}); pip install itk") from error


def _check(what: str, choices: tuple[str, ...]) -> None:
    if what not in choices:
        raise InputError(f"a result gives no {what!r} here; choose one of {', '.join(choices)}")


def _steps(result: RegistrationResult, what: str) -> Any:
    return (result.transform if what == "transform" else result.transform.inverse()).steps


def _image(result: RegistrationResult, what: str) -> tuple[torch.Tensor, Grid]:
    """An image on its grid."""
    return result.held(what), result.fixed_grid if what == "warped_moving" else result.moving_grid
