# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""FreeSurfer ``.lta``: one affine map from the source (moving) to the target (fixed) image, with the grids of both.

Type 0 maps voxels to voxels, type 1 maps RAS to RAS (scanner) mm. ``c_ras`` of a volume is the position of the voxel
``shape / 2``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry import Grid, SpatialTransform
from ..paths import atomic_path
from .base import check_grid, homogeneous, invalid, matrix_of

__all__ = ["read_lta", "write_lta"]

_VOXELS, _RAS = 0, 1
_LARGEST = 2**16  # maximum number of characters read


def read_lta(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read an affine map between voxels (type 0) or RAS positions (type 1)."""
    with invalid(name, "is it complete, and an .lta of FreeSurfer?"):
        with open(path, encoding="utf-8") as file:
            text = re.sub(r"#.*", "", file.read(_LARGEST))
        kind = int(_value(text, "type", name)[0])
        if int(_value(text, "nxforms", name)[0]) != 1:
            raise InputError(f"{name}: holds several transforms; give a file with one")
        matrix = homogeneous(_matrix(text, name), name)
        if kind == _VOXELS:
            source, target = (_volume(text, which, name) for which in ("src", "dst"))
            matrix = target @ matrix @ np.linalg.inv(source)
        elif kind != _RAS:
            raise InputError(f"{name}: is of type {kind}; write it anew with lta_convert --outlta, of type 0 or 1")
        return SpatialTransform.of_affine(np.linalg.inv(matrix))


def _value(text: str, key: str, name: str, count: int = 1) -> list[float]:
    found = re.search(rf"^[ \t]*{key}[ \t]*=(.*)$", text, re.MULTILINE)
    words = found.group(1).split() if found else []
    if len(words) < count:
        raise InputError(f"{name}: has no line '{key} = ...'; is it complete, and an .lta of FreeSurfer?")
    return [float(word) for word in words[:count]]


def _matrix(text: str, name: str) -> np.ndarray:
    found = re.search(r"^[ \t]*1[ \t]+4[ \t]+4[ \t]*$", text, re.MULTILINE)
    words = text[found.end() :].split()[:16] if found else []
    if len(words) < 16:
        raise InputError(f"{name}: has no 4x4 matrix; is it complete, and an .lta of FreeSurfer?")
    return np.array([float(word) for word in words]).reshape(4, 4)


def _volume(text: str, which: str, name: str) -> np.ndarray:
    """Return the matrix from voxels to RAS mm of the source or target image."""
    start = text.find(f"{which} volume info")
    part = text[max(start, 0) :]
    if start < 0 or not _value(part, "valid", name)[0]:
        raise InputError(f"{name}: does not say where its {which} image lies; write it anew with lta_convert --src --trg")
    axes = np.array([_value(part, f"{axis}ras", name, 3) for axis in "xyz"]).T * _value(part, "voxelsize", name, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = np.array(_value(part, "cras", name, 3)) - axes @ (np.array(_value(part, "volume", name, 3)) / 2)
    return matrix


def write_lta(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write a RAS to RAS map with both grids."""
    fixed, moving = check_grid(fixed, "fixed", name), check_grid(moving, "moving", name)
    if transform.dims != 3:
        raise InputError(f"{name}: the transform has {transform.dims} dimensions, and FreeSurfer three; write .tfm instead")
    matrix = np.linalg.inv(matrix_of(transform, name))
    head = f"type      = {_RAS} # LINEAR_RAS_TO_RAS\nnxforms   = 1\nmean      = 0.0 0.0 0.0\nsigma     = 1.0\n1 4 4\n"
    rows = "".join(_numbers(row) + "\n" for row in matrix)
    with atomic_path(path) as temporary:
        temporary.write_text(head + rows + _geometry("src", moving) + _geometry("dst", fixed))
    return [path]


def _geometry(which: str, grid: Grid) -> str:
    center = grid.affine[:3, :3] @ (np.array(grid.shape) / 2) + grid.affine[:3, 3]
    axes = (grid.affine[:3, :3] / grid.spacing).T
    lines = [f"{which} volume info", "valid = 1  # volume info valid", f"filename = {which}.nii.gz"]
    lines += [f"volume = {' '.join(map(str, grid.shape))}", f"voxelsize = {_numbers(grid.spacing)}"]
    lines += [f"{axis}ras   = {_numbers(row)}" for axis, row in zip("xyz", axes)]
    return "\n".join([*lines, f"cras   = {_numbers(center)}"]) + "\n"


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{v:.15e}" for v in values)
