# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""ITK transform files: HDF5, MATLAB and text."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, one_line
from .itk_hdf5 import SIGNATURE, read_hdf5
from .itk_linear import ItkTransform
from .itk_matlab import is_matlab, read_matlab
from .itk_text import read_text

__all__ = ["read_itk_transforms"]


def read_itk_transforms(path: Path, name: str) -> list[ItkTransform]:
    """The transforms in an ``.h5``, ``.mat`` or text file with any suffix, with a composite before its components.

    Args:
        path: the file, with ``~`` expanded.
        name: name of the transform for messages.

    Raises:
        InputError: if there is no such file or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{name}: no such file; check its path")
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(SIGNATURE) or path.suffix.lower() in (".h5", ".hdf5"):
            return read_hdf5(path, name)
        binary = path.suffix.lower() == ".mat" and not start.lstrip().startswith(b"#")
        return read_matlab(path) if binary or is_matlab(start) else read_text(path)
    except InputError:
        raise
    except Exception as error:  # h5py and ITK raise various types
        raise InputError(f"{name}: {one_line(error)}; give a complete .tfm, .txt, .mat or .h5 of ITK") from error
