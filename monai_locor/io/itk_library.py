# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""ITK, which only its own formats need: loaded where it is used, and its absence said in one line."""

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
