# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Import of ITK on demand, with a one-line error if it is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import InputError

__all__ = ["itk_class", "load_itk"]


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


def itk_class(name: str, kind: str) -> Any:
    """Import an ITK class from its own module.

    On first access of any class, the ``itk`` package loads all its modules, which takes ten seconds. Importing the class
    from its own module loads only its dependencies.

    >>> itk_class("AffineTransform", "D3").__name__
    'itkAffineTransformD3'
    """
    return getattr(import_module(f"itk.itk{name}Python"), f"itk{name}{kind}")
