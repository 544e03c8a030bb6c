# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Import of ITK where a format needs it, with a one-line error where it is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import InputError

__all__ = ["itk_class", "load_itk"]


def load_itk(name: str) -> Any:
    """The module ``itk``; loading it takes seconds.

    Args:
        name: of the file that needs it, for the message.

    Raises:
        InputError: when it is not installed.
    """
    try:
        import itk
    except ImportError as error:
        raise InputError(
            f"{name}: its format needs ITK, which is not installed ({error}); run `pip install itk`, or use NIfTI (.nii.gz)"
        ) from error
    return itk


def itk_class(name: str, kind: str) -> Any:
    """A class of ITK from its own module.

    ITK's Python package loads, for the first class that is asked for, all modules that any may need: ten seconds. Taken from
    its own module a class comes with what it needs itself.

    >>> itk_class("AffineTransform", "D3").__name__
    'itkAffineTransformD3'
    """
    return getattr(import_module(f"itk.itk{name}Python"), f"itk{name}{kind}")
