# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Text matrices: 4x4 numbers without a header, written by many tools; AFNI ``.aff12.1D``; MINC ``.xfm``.

Only FLIRT writes two spaces after every number; otherwise the 4x4 files do not differ in form. Matrices of greedy, c3d and
NiftyReg map fixed to moving points in RAS mm, those of FLIRT map moving to fixed points in FSL coordinates.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from nibabel.affines import obliquity

from ...errors import InputError
from ...geometry import Grid, SpatialTransform, apply_affine, full_affine
from ..lps import flipped
from ..paths import atomic_path
from .base import homogeneous, invalid, matrix_of, read_matrix_text, undecided
from .fsl import read_flirt

__all__ = [
    "AFNI",
    "MINC",
    "is_matrix_text",
    "read_afni",
    "read_lps_matrix",
    "read_minc",
    "read_ras_matrix",
    "unmarked_matrix",
    "write_minc",
    "write_ras_matrix",
]

logger = logging.getLogger(__name__)

OBLIQUE_DEGREES = 0.01  # of the axes of an image from those of the world, from which on AFNI calls it oblique
AFNI = re.compile(r"#.*\(DICOM-to-DICOM, row-by-row\)")
MINC = "MNI Transform File"
_ITK_MINC = re.compile(r"^%\s*ITK-XFM writer", re.MULTILINE)
MAX_CHARACTERS = 2**16  # of the file of one matrix
_FLIRT = re.compile(r"\s*(?:(?:\S+  ){4}\r?\n){4}\s*")
_READINGS = {
    "greedy": "greedy, c3d_affine_tool or NiftyReg: RAS mm, fixed to moving points; '[FILE,1]' if it is the other way round",
    "flirt": "FLIRT",
    "lps-matrix": "LPS mm, fixed to moving points",
}


def is_matrix_text(start: bytes) -> bool:
    """Whether the first bytes of a file are four lines of four numbers."""
    try:
        rows = [[float(word) for word in line.split()] for line in start.decode("ascii").splitlines() if line.strip()]
    except ValueError:
        return False
    return len(rows) == 4 and all(len(row) == 4 for row in rows)


def unmarked_matrix(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> str:
    """Return the format of a 4x4 matrix: FLIRT by its spaces, otherwise the only one for which the images overlap.

    Raises:
        InputError: if the format is ambiguous; the message lists the candidates.
    """
    if _FLIRT.fullmatch(path.read_text(encoding="ascii", errors="replace")):
        return "flirt"
    readings = dict(_READINGS)
    if path.suffix.lower() == ".mat":
        del readings["lps-matrix"]
    if fixed is not None and moving is not None and fixed.dims == 3:
        readers = {"greedy": read_ras_matrix, "flirt": read_flirt, "lps-matrix": read_lps_matrix}
        met = [kind for kind in readings if _meets(readers[kind](path, name, fixed, moving).matrix, fixed, moving)]
        if len(met) == 1:
            return met[0]
    raise undecided(name, "a matrix", readings)


def _meets(matrix: np.ndarray, fixed: Grid, moving: Grid) -> bool:
    """Whether the mapped fixed field of view, extended by a quarter on each side, overlaps that of the moving image."""
    index = np.stack(np.meshgrid(*(np.linspace(-0.25, 1.25, 13) * (n - 1) for n in fixed.shape), indexing="ij"), -1)
    through = np.linalg.inv(moving.affine) @ matrix @ fixed.affine
    found = apply_affine(through, index.reshape(-1, fixed.dims))
    return bool(((found > -0.5) & (found < np.array(moving.shape) - 0.5)).all(1).any())


def read_ras_matrix(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a matrix from fixed to moving points in RAS mm; 2-D if the fixed image is 2-D."""
    return _of_matrix(read_matrix_text(path, name), name, fixed)


def read_lps_matrix(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a matrix from fixed to moving points in LPS mm; 2-D if the fixed image is 2-D."""
    return _of_matrix(flipped(read_matrix_text(path, name)), name, fixed)


def _of_matrix(matrix: np.ndarray, name: str, fixed: Grid | None) -> SpatialTransform:
    with invalid(name, "compute it again"):
        if fixed is not None and fixed.dims == 2:
            matrix = matrix[[0, 1, 3]][:, [0, 1, 3]]
        return SpatialTransform.of_affine(matrix)


def write_ras_matrix(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write four lines of four numbers."""
    return _write(path, _lines(full_affine(matrix_of(transform, name))))


def _lines(matrix: np.ndarray) -> str:
    return "".join(" ".join(repr(float(v)) for v in row) + "\n" for row in matrix)


def _write(path: Path, text: str) -> list[Path]:
    with atomic_path(path) as temporary:
        temporary.write_text(text)
    return [path]


def read_afni(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read ``.aff12.1D`` of 3dAllineate: twelve numbers, LPS mm, base (fixed) to source (moving) points.

    AFNI leaves out the rotation of oblique images before it applies such a matrix; a warning says so if one is given.
    """
    with invalid(name, "it should hold one line of twelve numbers"):
        numbers = np.loadtxt(path, ndmin=2)
    if numbers.size != 12:
        raise InputError(f"{name}: holds {numbers.size} numbers instead of 12; give the matrix of one volume")
    for role, grid in (("fixed", fixed), ("moving", moving)):
        if grid is not None and np.rad2deg(obliquity(grid.full_affine)).max() > OBLIQUE_DEGREES:
            text = "%s: AFNI leaves out the rotation of oblique images, and the %s image is oblique; check the result"
            logger.warning(text, name, role)
    return _of_matrix(flipped(np.vstack((numbers.reshape(3, 4), np.eye(4)[3]))), name, fixed)


def read_minc(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read ``.xfm`` of MINC and FreeSurfer: one linear map, RAS mm, source (moving) to target (fixed) points.

    ITK uses the same syntax for LPS mm, fixed to moving points, and is recognized by its comment.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        content = file.read(MAX_CHARACTERS)
    text = re.sub(r"[%#].*", "", content)
    kinds = re.findall(r"Transform_Type\s*=\s*(\w+)\s*;", text)
    if kinds != ["Linear"]:
        raise InputError(f"{name}: holds {', '.join(kinds) or 'no transform'}; give a file with one linear transform")
    with invalid(name, "is it complete?"):
        values = re.search(r"Linear_Transform\s*=([^;]*);", text)
        numbers = np.array(values.group(1).split() if values else [], dtype=np.float64).reshape(3, 4)
        matrix = homogeneous(np.vstack((numbers, np.eye(4)[3])), name)
        if _ITK_MINC.search(content):
            return SpatialTransform.of_affine(flipped(matrix))
        turned = re.search(r"Invert_Flag\s*=\s*True\s*;", text)
        return SpatialTransform.of_affine(matrix if turned else np.linalg.inv(matrix))


def write_minc(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write one linear map from moving to fixed points."""
    if transform.dims != 3:
        raise InputError(f"{name}: the transform has {transform.dims} dimensions, and MINC three; write .tfm instead")
    rows = _lines(np.linalg.inv(matrix_of(transform, name))[:3]).rstrip()
    return _write(path, f"{MINC}\n\nTransform_Type = Linear;\nLinear_Transform =\n{rows};\n")
