# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Transforms in the formats of ITK: displacement fields as NIfTI vector images, affines as ITK transform files.

In memory, coordinates are RAS mm; in the files they are LPS mm, as in ITK. Both map points of the fixed image to points of
the moving image, as needed to resample the moving image.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, one_line
from ..geometry import Grid
from .itk_linear import linear_matrix
from .itk_matlab import write_matlab_affine
from .itk_text import affine_text
from .itk_transforms import read_itk_transforms
from .lps import flipped, lps_signs
from .nifti import intent_of, is_mapping, is_nifti, load_nifti, nifti_affine, save_nifti
from .paths import atomic_path, expanded

if TYPE_CHECKING:
    import torch

__all__ = [
    "load_displacement_field",
    "read_affine",
    "read_displacement_field",
    "write_affine",
    "write_displacement_field",
]

_VECTOR, _DISPLACEMENT = 1007, 1006  # NIfTI intents: LPS components (ITK), RAS components
VELOCITY = "velocity"  # intent_name of a stationary velocity field


def write_displacement_field(
    path: str | os.PathLike[str], displacement: torch.Tensor | np.ndarray, grid: Grid, velocity: bool = False
) -> None:
    """Write a displacement field as the NIfTI vector image that ITK, ANTs and Slicer read.

    The file is ``(X, Y, Z, 1, 3)`` float32 with intent 1007 and components in LPS mm. A 2-D field is ``(X, Y, 1, 1, 2)``,
    which ITK reads as a 2-D image of 2-vectors.

    Args:
        path: must end in ``.nii`` or ``.nii.gz``; written atomically.
        displacement: ``(D, *shape)``, RAS mm; maps point x of the fixed image to x + displacement in the moving image.
        grid: grid of the field.
        velocity: whether it is a stationary velocity field, whose exponential is a displacement. It is marked in
            ``intent_name`` and rejected by :func:`read_displacement_field`.

    Raises:
        InputError: if ``path`` has another suffix.
        ValueError: if the field does not fit the grid or is not finite.
    """
    if tuple(displacement.shape) != (grid.dims, *grid.shape):
        raise ValueError(f"a displacement of shape {tuple(displacement.shape)} does not fit a grid of shape {grid.shape}")
    if not isinstance(displacement, np.ndarray):
        from ..tensors import host_array  # imports torch

        displacement = host_array(displacement)
    if not np.isfinite(displacement).all():
        raise ValueError("the displacement field holds NaN or infinite values")
    data = np.array(displacement, dtype=np.float32)  # a copy
    data *= lps_signs(grid.dims).astype(np.float32).reshape(-1, *[1] * grid.dims)
    data = np.moveaxis(data.reshape(grid.dims, *grid.shape, *(1,) * (4 - grid.dims)), 0, -1)
    save_nifti(path, data, grid, intent="vector", intent_name=VELOCITY if velocity else "")


def read_displacement_field(path: str | os.PathLike[str], velocity: bool = False) -> tuple[torch.Tensor, Grid]:
    """Read a NIfTI displacement field: LPS components with intent 1007, as ITK writes them, or RAS with intent 1006.

    Args:
        path: the file.
        velocity: whether to read a stationary velocity field instead, as :func:`write_displacement_field` marks it.

    Returns:
        the field ``(D, *shape)`` float32, RAS mm, and its grid.

    Raises:
        InputError: if the file is missing or cannot be read as a displacement field.
    """
    import torch

    field, grid = load_displacement_field(path, velocity)
    return torch.from_numpy(field), grid


def load_displacement_field(path: str | os.PathLike[str], velocity: bool = False) -> tuple[np.ndarray, Grid]:
    """:func:`read_displacement_field` as an array, without torch."""
    name = f"{'velocity' if velocity else 'displacement'} field {os.fspath(path)}"
    data, affine, intent = _load_vectors(expanded(path, name), name, velocity)
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
    try:
        return np.ascontiguousarray(np.moveaxis(data, -1, 0), dtype=np.float32), Grid.placed(data.shape[:dims], affine)
    except ValueError as error:
        raise InputError(f"{name}: {one_line(error)}; repair its header") from error


def write_affine(path: str | os.PathLike[str], matrix: np.ndarray) -> None:
    """Write an affine map as an ITK transform file (AffineTransform, double, LPS).

    Args:
        path: must end in ``.tfm`` or ``.txt`` (text) or ``.mat``; written atomically.
        matrix: ``(D + 1, D + 1)``, RAS mm, from points of the fixed image to points of the moving image; D = 2 or 3.

    Raises:
        InputError: if ``path`` has another suffix.
        ValueError: if the matrix is not a finite 3x3 or 4x4 matrix with last row 0 ... 0 1.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape not in ((3, 3), (4, 4)) or not np.isfinite(matrix).all() or (matrix[-1] != np.eye(len(matrix))[-1]).any():
        raise ValueError(f"an affine is a finite 3x3 or 4x4 matrix with last row 0 ... 0 1, got {matrix.tolist()}")
    if Path(path).suffix not in (".tfm", ".txt", ".mat"):
        raise InputError(f"output file {os.fspath(path)}: its name must end in .tfm, .txt or .mat")
    lps = flipped(matrix)
    with atomic_path(path) as temporary:
        if Path(path).suffix == ".mat":
            write_matlab_affine(temporary, lps)
        else:
            temporary.write_text(affine_text(lps))


def read_affine(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an ITK transform file with a single matrix transform (affine, Euler, similarity, versor ...).

    Returns:
        ``(D + 1, D + 1)`` float64, RAS mm, from points of the fixed image to points of the moving image.

    Raises:
        InputError: if the file is missing, unreadable, or does not contain exactly one matrix transform.
    """
    name = f"affine {os.fspath(path)}"
    transforms = read_itk_transforms(expanded(path, name), name)
    try:
        matrix = linear_matrix(transforms[0]) if len(transforms) == 1 else None
    except ValueError as error:
        raise InputError(f"{name}: {one_line(error)}; compute it again") from error
    if matrix is None:
        kinds = ", ".join(transform.kind for transform in transforms)
        raise InputError(f"{name}: holds {kinds or 'nothing'}; give a file with one affine or rigid transform")
    if not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise InputError(f"{name}: its matrix is singular or not finite: {matrix.tolist()}; compute it again")
    return flipped(matrix)


def _load_vectors(path: Path, name: str, velocity: bool = False) -> tuple[np.ndarray, np.ndarray, int]:
    """Voxels, affine (mm) and intent code of a NIfTI file."""
    if not path.is_file() or not is_nifti(path):
        raise InputError(f"{name}: no such NIfTI file; give an existing .nii or .nii.gz")
    try:
        image = load_nifti(path)
        kind = intent_of(image)[1]
        if kind.startswith("NREG_TRANS"):
            raise ValueError("a transform of NiftyReg, which read_transform reads")
        if is_mapping(image):
            raise ValueError("positions, as of SPM, which read_transform reads")
        if velocity and kind != VELOCITY:
            raise InputError(
                f"{name}: holds no stationary velocity (intent_name {kind!r}); give velocity.nii.gz of a registration"
            )
        if kind == VELOCITY and not velocity:
            raise InputError(f"{name}: holds a stationary velocity; give the displacement that is its exponential")
        data = np.asanyarray(image.dataobj)
        if data.dtype.kind not in "fiu":
            raise ValueError(f"voxels of type {data.dtype}")
        return data, nifti_affine(image), int(image.header["intent_code"])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: cannot be read ({one_line(error)}); is it complete?") from error
