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

"""Transforms as other tools read them: displacement fields as ITK's NIfTI vector images, affines as ITK transform files.

In memory all is RAS and millimetres; in the files it is LPS and millimetres, as ITK has it. Both map points of the fixed
image to points of the moving image, which is what resampling the moving image takes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import Grid
from .itk_library import load_itk
from .itk_text import affine_text, read_affine_text
from .lps import flipped, lps_signs
from .nifti import is_nifti, load_nifti, nifti_affine, save_nifti
from .paths import atomic_path
from .sources import one_line

__all__ = [
    "load_itk_transforms",
    "read_affine",
    "read_displacement_field",
    "write_affine",
    "write_displacement_field",
]

_VECTOR, _DISPLACEMENT = 1007, 1006  # NIfTI intents: LPS components for ITK, and RAS components


def write_displacement_field(path: str | os.PathLike[str], displacement: torch.Tensor, grid: Grid) -> None:
    """Write a displacement field as the NIfTI vector image that ITK, ANTs and Slicer read.

    The file is ``(X, Y, Z, 1, 3)`` float32 with intent 1007 and components in LPS mm. A 2-D field is ``(X, Y, 1, 1, 2)``,
    which ITK reads as a 2-D image of 2-vectors.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; the file appears only when it is complete.
        displacement: ``(D, *shape)``, RAS mm: the point x of the fixed image goes to x + displacement in the moving image.
        grid: where the field is given.

    Raises:
        InputError: when ``path`` has another suffix.
        ValueError: when the field does not fit the grid or is not finite.
    """
    if tuple(displacement.shape) != (grid.dims, *grid.shape):
        raise ValueError(f"a displacement of shape {tuple(displacement.shape)} does not fit a grid of shape {grid.shape}")
    if not torch.isfinite(displacement).all():
        raise ValueError("the displacement field holds NaN or infinite values")
    data = displacement.detach().cpu().to(torch.float64).numpy()
    data = np.moveaxis(data, 0, -1) * lps_signs(grid.dims)
    shape = (*grid.shape, *(1,) * (4 - grid.dims), grid.dims)
    save_nifti(path, data.reshape(shape).astype(np.float32), grid, intent="vector")


def read_displacement_field(path: str | os.PathLike[str]) -> tuple[torch.Tensor, Grid]:
    """Read a displacement field in NIfTI: LPS components with intent 1007, as ITK writes it, or RAS with intent 1006.

    Returns:
        ``(D, *shape)`` float32, RAS mm, and the grid it is given on.

    Raises:
        InputError: when the file is missing, unreadable or no such field.
    """
    name = f"displacement field {os.fspath(path)}"
    data, affine, intent = _load_vectors(Path(path).expanduser(), name)
    dims = data.shape[-1]
    known = intent in (_VECTOR, _DISPLACEMENT) and dims in (2, 3)
    if not known or data.ndim != 5 or data.shape[dims:4] != (1,) * (4 - dims):
        raise InputError(
            f"{name}: has shape {data.shape} and intent {intent}; needed is (X, Y, Z, 1, 3), or (X, Y, 1, 1, 2), "
            f"with intent {_VECTOR} (vector, LPS) or {_DISPLACEMENT} (displacement, RAS)"
        )
    if not np.isfinite(data).all():
        raise InputError(f"{name}: holds NaN or infinite values; compute it again")
    data = data.reshape(*data.shape[:dims], dims) * (lps_signs(dims) if intent == _VECTOR else 1)
    field = torch.from_numpy(np.ascontiguousarray(np.moveaxis(data, -1, 0), dtype=np.float32))
    try:
        return field, Grid.of(MetaTensor(field, affine=torch.from_numpy(affine)))
    except ValueError as error:
        raise InputError(f"{name}: {one_line(error)}; repair its header") from error


def write_affine(path: str | os.PathLike[str], matrix: np.ndarray) -> None:
    """Write an affine map as an ITK transform file (AffineTransform, double, LPS).

    Args:
        path: ends in ``.tfm`` or ``.txt`` (text) or ``.mat``; the file appears only when it is complete.
        matrix: ``(D + 1, D + 1)``, RAS mm, points of the fixed image to points of the moving image; D = 2 or 3.

    Raises:
        InputError: when ``path`` has another suffix.
        ValueError: when the matrix is not a finite 3x3 or 4x4 matrix with last row 0 ... 0 1.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape not in ((3, 3), (4, 4)) or not np.isfinite(matrix).all() or (matrix[-1] != np.eye(len(matrix))[-1]).any():
        raise ValueError(f"an affine is a finite 3x3 or 4x4 matrix with last row 0 ... 0 1, got {matrix.tolist()}")
    if Path(path).suffix not in (".tfm", ".txt", ".mat"):
        raise InputError(f"output file {os.fspath(path)}: its name must end in .tfm, .txt or .mat")
    lps = flipped(matrix)
    with atomic_path(path) as temporary:
        if Path(path).suffix == ".mat":
            _write_binary_affine(temporary, lps, f"output file {os.fspath(path)}")
        else:
            temporary.write_text(affine_text(lps))


def _write_binary_affine(path: Path, lps: np.ndarray, name: str) -> None:
    itk = load_itk(name)
    dims = len(lps) - 1
    transform = itk.AffineTransform[itk.D, dims].New()
    transform.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(lps[:dims, :dims])))
    transform.SetTranslation(lps[:dims, dims].tolist())
    itk.transformwrite([transform], str(path))


def read_affine(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an ITK transform file that holds one matrix transform (affine, Euler, similarity, versor ...).

    Returns:
        ``(D + 1, D + 1)`` float64, RAS mm, points of the fixed image to points of the moving image.

    Raises:
        InputError: when the file is missing, unreadable or holds another or more than one transform.
    """
    name = f"affine {os.fspath(path)}"
    matrix = read_affine_text(Path(path).expanduser())
    if matrix is None:
        matrix = _matrix_of_itk(Path(path).expanduser(), name)
    if not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise InputError(f"{name}: its matrix is singular or not finite: {matrix.tolist()}; compute it again")
    return flipped(matrix)


def _matrix_of_itk(path: Path, name: str) -> np.ndarray:
    transforms = load_itk_transforms(path, name)
    if len(transforms) != 1 or not hasattr(transforms[0], "GetMatrix"):
        kinds = ", ".join(type(t).__name__ for t in transforms)
        raise InputError(f"{name}: holds {kinds or 'nothing'}; give a file with one affine or rigid transform")
    linear = load_itk(name).array_from_matrix(transforms[0].GetMatrix())
    matrix = np.eye(len(linear) + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = linear, list(transforms[0].GetOffset())  # the offset has the centre in it
    return matrix


def load_itk_transforms(path: Path, name: str) -> list[Any]:
    """What ITK finds in a transform file, one object a transform.

    Raises:
        InputError: when there is no such file, or ITK cannot read it or is not installed.
    """
    if not path.is_file():
        raise InputError(f"{name}: no such file; check its path")
    itk = load_itk(name)
    try:
        return itk.transformread(str(path))
    except Exception as error:
        raise InputError(
            f"{name}: ITK cannot read it ({one_line(error)}); give a complete .tfm, .txt, .mat or .h5 of ITK"
        ) from error


def _load_vectors(path: Path, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Voxels, affine (mm) and intent code of a NIfTI file."""
    if not path.is_file() or not is_nifti(path):
        raise InputError(f"{name}: no such NIfTI file; give an existing .nii or .nii.gz")
    try:
        image = load_nifti(path)
        if image.header["intent_name"].item().startswith(b"NREG_TRANS"):
            raise ValueError("a transform of NiftyReg, which read_transform reads")
        data = np.asanyarray(image.dataobj)
        if data.dtype.kind not in "fiu":
            raise ValueError(f"voxels of type {data.dtype}")
        return data, nifti_affine(image), int(image.header["intent_code"])
    except Exception as error:
        raise InputError(f"{name}: cannot be read ({one_line(error)}); is it complete?") from error
