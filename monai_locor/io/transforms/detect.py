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

"""Which format a transform file has, from its name and from how it begins."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ..itk_text import TEXT_SIGNATURE
from ..nifti import is_nifti, load_nifti
from .ants import ants_files
from .base import invalid
from .fsl import COEFFICIENTS, FIELD
from .niftyreg import KINDS, is_niftyreg

__all__ = ["format_of_file", "format_of_name"]

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
}


def format_of_name(path: Path) -> str:
    """The format that is written to a file of this name.

    Raises:
        InputError: when the name says nothing.
    """
    if is_nifti(path):
        return "nifti"
    try:
        return _BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        known = ", ".join([".nii.gz", *sorted(_BY_SUFFIX)])
        raise InputError(f"transform {path}: its name ends in none of {known}; name the format") from None


def format_of_file(path: Path) -> str:
    """The format of an existing file, or of the files of an ANTs prefix.

    Raises:
        InputError: when there is none, or its content is nothing known.
    """
    if not path.is_file():
        if any(file.is_file() for file in ants_files(path)[:2]):
            return "ants"
        raise InputError(f"transform {path}: no such file; check its path")
    if is_nifti(path):
        return _nifti_kind(path)
    with path.open("rb") as file:
        start = file.read(4096)
    if start.lstrip().startswith(TEXT_SIGNATURE.encode()):
        return "itk"
    kind = format_of_name(path)
    return _text_kind(start, path, kind) if path.suffix.lower() in (".txt", ".mat") else kind


def _text_kind(start: bytes, path: Path, otherwise: str) -> str:
    """Of files that several tools write, which one did; four lines of numbers are NiftyReg's in .txt, FLIRT's in .mat."""
    if b"(Transform " in start:
        return "elastix"
    try:
        [float(word) for word in start.decode("ascii").split()[:4]]
    except ValueError:
        return otherwise
    return "niftyreg-affine" if path.suffix.lower() == ".txt" else "flirt"


def _nifti_kind(path: Path) -> str:
    name = f"transform {path}"
    with invalid(name, "is it a complete NIfTI file?"):
        image = load_nifti(path)
        if is_niftyreg(image.header):
            return KINDS.get(int(image.header["intent_p1"]), KINDS[0])
        if int(image.header["intent_code"]) in (FIELD, *COEFFICIENTS):
            return "fsl"
        return "learn2reg" if image.ndim == 4 and image.shape[3] == 3 else "nifti"
