# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Import of ITK and SimpleITK on demand, with a one-line error if ITK is not installed."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import InputError

__all__ = ["itk_class", "load_itk", "load_simpleitk"]

# Earlier versions, and ITK before 5.4.7, rotate NRRD files in left-anterior-superior space by 180 degrees.
MIN_SIMPLEITK_VERSION = (2, 5, 6)


def load_itk(name: str) -> Any:
    """Import the module ``itk``, which takes seconds.

    Args:
        name: name of the file that needs it, for the message.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import itk
    except ImportError as error:
        raise InputError(
            f"{name}: its format needs ITK, which is not installed ({error}); run `pip install itk`, or use NIfTI (.nii.gz)"
        ) from error
    return itk


def load_simpleitk() -> Any | None:
    """Import SimpleITK, which has ITK's readers; None if it is not installed or older than ``MIN_SIMPLEITK_VERSION``."""
    if find_spec("SimpleITK") is None:
        return None
    import SimpleITK as sitk

    version = tuple(int(part) for part in re.findall(r"\d+", sitk.Version.VersionString())[:3])
    return sitk if version >= MIN_SIMPLEITK_VERSION else None


def itk_class(name: str, kind: str) -> Any:
    """Import an ITK class from its own module.

    On first access of any class, the ``itk`` package loads all its modules, which takes ten seconds. Importing the class
    from its own module loads only its dependencies.

    >>> itk_class("AffineTransform", "D3").__name__
    'itkAffineTransformD3'
    """
    return getattr(import_module(f"itk.itk{name}Python"), f"itk{name}{kind}")
