# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Detection of the format of a transform file from its content and name."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import InputError
from ...geometry import Grid
from ..dicom.registration import is_registration
from ..itk_hdf5 import SIGNATURE
from ..itk_matlab import is_matlab
from ..itk_text import TEXT_SIGNATURE
from ..nifti import is_nifti, load_nifti
from .ants import ants_files
from .base import invalid
from .fsl import COEFFICIENT_INTENTS, FIELD_INTENT
from .matrices import AFNI, MINC, is_matrix_text, unmarked_matrix
from .nifti_vectors import unmarked_kind
from .niftyreg import FORMAT_BY_TYPE, is_niftyreg
from .x5 import is_x5

__all__ = ["format_of_file", "format_of_name", "shows_transform"]

_BY_SUFFIX = {
    ".h5": "itk",
    ".hdf5": "itk",
    ".tfm": "itk",
    ".txt": "itk",
    ".mat": "itk",
    ".nrrd": "vector",
    ".nhdr": "vector",
    ".mha": "vector",
    ".mhd": "vector",
    ".npz": "learn2reg",
    ".lta": "lta",
    ".xfm": "minc",
    ".1d": "afni",
    ".dcm": "dicom",
    ".x5": "x5",
}
_HEAD = 4096  # bytes read for detection


def format_of_name(path: Path) -> str:
    """Return the format written to a file of this name.

    Raises:
        InputError: if the suffix is unknown.
    """
    if is_nifti(path):
        return "nifti"
    try:
        return _BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        known = ", ".join([".nii.gz", *sorted(_BY_SUFFIX)])
        how = "name the format (--from to read, --to to write, in Python format=)"
        raise InputError(f"transform {path}: its name ends in none of {known}; {how}") from None


def format_of_file(path: Path, fixed: Grid | None = None, moving: Grid | None = None) -> str:
    """Return the format of an existing file, or ``"ants"`` for an ANTs prefix.

    Args:
        path: file or prefix, with ``~`` expanded.
        fixed: grid of the fixed image, which may resolve an ambiguity.
        moving: grid of the moving image, likewise.

    Raises:
        InputError: if the file does not exist, its content is not recognized, or its format is ambiguous (the message lists
            the candidates).
    """
    if not path.is_file():
        if any(file.is_file() for file in ants_files(path)[:2]):
            return "ants"
        raise InputError(f"transform {path}: no such file; check its path")
    name = f"transform {path}"
    if is_nifti(path):
        with invalid(name, "is it a complete NIfTI file?"):
            header = load_nifti(path).header
            if is_niftyreg(header):
                return FORMAT_BY_TYPE.get(int(header["intent_p1"]), FORMAT_BY_TYPE[0])
            return "fsl" if int(header["intent_code"]) in (FIELD_INTENT, *COEFFICIENT_INTENTS) else unmarked_kind(path, name)
    if is_registration(path):
        return "dicom"
    start = _start(path)
    if start.startswith(SIGNATURE) and is_x5(path):
        return "x5"
    return _by_content(start) or _by_matrix(start, path, name, fixed, moving) or format_of_name(path)


def shows_transform(path: Path) -> bool:
    """Whether the first bytes of a file identify a transform; False for HDF5, which MINC also uses for images."""
    start = _start(path) if path.is_file() else b""
    return not start.startswith(SIGNATURE) and _by_content(start) is not None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _by_content(start: bytes) -> str | None:
    """Return the format identified by the first bytes of a file, or None."""
    text = start.decode("utf-8-sig", errors="replace").lstrip()
    if start.startswith(SIGNATURE) or text.startswith(TEXT_SIGNATURE) or is_matlab(start):
        return "itk"
    if text.startswith(MINC):
        return "minc"
    if AFNI.match(text):
        return "afni"
    if re.search(r"^nxforms[ \t]*=", text, re.MULTILINE):
        return "lta"
    return "elastix" if "(Transform " in text else None


def _by_matrix(start: bytes, path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> str | None:
    if not is_matrix_text(start):
        return None
    return unmarked_matrix(path, name, fixed, moving)
