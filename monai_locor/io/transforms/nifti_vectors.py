# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Vector NIfTI files of any tool: displacements or positions, RAS or LPS, as named by the caller or detected.

Positions can be detected because they are close to the voxels' own coordinates. The unit and the axes of displacements cannot
be inferred from their values.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry import FieldStep, Grid, SpatialTransform, apply_affine
from ..lps import lps_signs
from ..nifti import header_texts, is_mapping, load_nifti, nifti_affine
from .base import invalid, undecided
from .fsl_space import to_fsl

__all__ = [
    "VOXELS",
    "check_reading",
    "dims_of_vectors",
    "load_vectors",
    "read_lps_displacement",
    "read_lps_positions",
    "read_ras_displacement",
    "read_ras_positions",
    "read_voxel_positions",
    "unmarked_kind",
]

logger = logging.getLogger(__name__)

VOXELS = "displacement in voxels"  # header field descrip of the Learn2Reg files written here
_LEARN2REG = re.compile(r"disp_\d+_\d+\.nii(\.gz)?", re.IGNORECASE)  # file names required by its evaluation
_AWAY = 0.4  # maximum mean shift of positions, as a fraction of the diagonal; the origin is near the center of most images
_SAMPLES_PER_AXIS = 24
_VECTOR, _DISPLACEMENT = 1007, 1006
_DISPLACEMENTS = {"learn2reg": "voxels", "ras-displacement": "mm, RAS", "lps-displacement": "mm, LPS", "fsl-rel": "FSL's mm"}
_POSITIONS = {
    "ras-positions": "mm, RAS",
    "lps-positions": "mm, LPS",
    "voxel-positions": "voxels",
    "fsl-abs": "FSL's mm",
}


def load_vectors(path: Path, name: str) -> tuple[np.ndarray, Grid]:
    """Load the vectors of a NIfTI file, ``(D, *shape)`` as stored, and the grid of its voxels.

    Raises:
        InputError: if it does not have D components per voxel.
    """
    with invalid(name, "is it a complete NIfTI file?"):
        image = load_nifti(path)
        shape, dims = image.shape, dims_of_vectors(image.shape)
        if dims is None:
            raise InputError(f"{name}: has shape {shape}; vectors are (X, Y, Z, 1, 3), (X, Y, Z, 3) or (X, Y, 1, 1, 2)")
        data = np.asanyarray(image.dataobj).reshape(*shape[:dims], dims)
        full, affine = nifti_affine(image), np.eye(dims + 1)
        affine[:-1, :-1], affine[:-1, -1] = full[:dims, :dims], full[:dims, 3]
        return np.moveaxis(data, -1, 0), Grid(data.shape[:-1], affine)


def dims_of_vectors(shape: tuple[int, ...]) -> int | None:
    """Return the number of spatial axes D of a vector image of this shape; None for other shapes."""
    dims = shape[-1]
    vectors = len(shape) in (4, 5) and dims in (2, 3) and all(n == 1 for n in shape[dims:-1])
    return dims if vectors else None


def read_ras_displacement(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read displacements, RAS mm."""
    return SpatialTransform.of_field(*load_vectors(path, name))


def read_lps_displacement(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read displacements, LPS mm, regardless of the intent in the header."""
    values, grid = load_vectors(path, name)
    return SpatialTransform.of_field(_flipped(values), grid)


def read_ras_positions(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read positions, RAS mm: ``y_*.nii`` and ``iy_*.nii`` of SPM, warps of MRtrix."""
    values, grid = load_vectors(path, name)
    return _of_positions(values, grid, name)


def read_lps_positions(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read positions, LPS mm."""
    values, grid = load_vectors(path, name)
    return _of_positions(_flipped(values), grid, name)


def read_voxel_positions(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read positions in voxels of the moving image; without one, in voxels of the same grid."""
    values, grid = load_vectors(path, name)
    ends = apply_affine((moving or grid).affine, np.moveaxis(values, 0, -1).astype(np.float64))
    return _of_positions(np.moveaxis(ends, -1, 0), grid, name)


def _flipped(values: np.ndarray) -> np.ndarray:
    return values * lps_signs(len(values)).reshape(-1, *[1] * len(values))


def _of_positions(values: np.ndarray, grid: Grid, name: str) -> SpatialTransform:
    shift = values - np.moveaxis(grid.points(), -1, 0)
    unknown = ~np.isfinite(shift).all(0)  # as in SPM's inverse deformations, outside the other image
    if unknown.all():
        raise InputError(f"{name}: none of its voxels has a position; compute it again")
    if unknown.any():
        logger.warning("%s: %d voxels have no position, they go where an affine map takes them", name, int(unknown.sum()))
        index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing="ij"), -1)
        terms = np.concatenate((index, np.ones((*grid.shape, 1))), -1)
        fit = np.linalg.lstsq(terms[~unknown], shift[:, ~unknown].T, rcond=None)[0]
        shift[:, unknown] = (terms[unknown] @ fit).T
    return SpatialTransform.of_field(shift, grid)


def unmarked_kind(path: Path, name: str) -> str:
    """Return the format of a NIfTI file of tools other than NiftyReg and FSL, from its header, name and values.

    Raises:
        InputError: if the format is ambiguous; the message lists the candidates.
    """
    image = load_nifti(path)
    header = image.header
    code, dims = int(header["intent_code"]), dims_of_vectors(image.shape)
    about = header_texts(image)[1]
    if any("velocity" in words or "flow field" in words for words in header_texts(image)):
        raise InputError(f"{name}: holds a velocity field; make a deformation of it with the tool that wrote it")
    if dims is not None and is_mapping(image):
        return "spm"
    if dims is None or (len(image.shape) == 5 and code in (_VECTOR, _DISPLACEMENT)):
        return "nifti"  # its reader checks the values
    if about == VOXELS or (_LEARN2REG.fullmatch(path.name) and code == 0 and len(image.shape) == 4):
        return "learn2reg"
    return _by_numbers(*load_vectors(path, name), name)


def _by_numbers(values: np.ndarray, grid: Grid, name: str) -> str:
    if not values.any():
        return "ras-displacement"  # a zero displacement is the same in every unit
    close = _close(*_sampled(values), grid, 0.7)
    if close in (["ras-positions"], ["lps-positions"]):
        return close[0]
    if close:
        raise undecided(name, "positions", {kind: _POSITIONS[kind] for kind in close})
    raise undecided(name, "displacements", _DISPLACEMENTS)


def _sampled(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subsample ``(D, *shape)`` to voxels ``(N, D)`` and their vectors ``(N, D)``; using all would take seconds."""
    rows = [np.unique(np.linspace(0, n - 1, _SAMPLES_PER_AXIS).round().astype(int)) for n in values.shape[1:]]
    index = np.stack(np.meshgrid(*rows, indexing="ij"), -1).reshape(-1, len(rows))
    places = (slice(None), *index.T)
    found = values[places].T.astype(np.float64)
    known = np.isfinite(found).all(1)
    return index[known], found[known]


def _close(index: np.ndarray, vectors: np.ndarray, grid: Grid, limit: float) -> list[str]:
    """Return the position formats that the vectors of sampled voxels are consistent with."""
    world = apply_affine(grid.affine, index)
    own = {"ras-positions": world, "lps-positions": world * lps_signs(grid.dims), "voxel-positions": index}
    if grid.dims == 3:
        own["fsl-abs"] = apply_affine(to_fsl(grid), index)
    return [kind for kind, expected in own.items() if len(index) > 1 and _near(vectors, expected, limit)]


def _near(found: np.ndarray, expected: np.ndarray, limit: float) -> bool:
    """Whether vectors ``(N, D)`` match positions ``(N, D)`` in their variation and, roughly, in their mean.

    Args:
        limit: maximum relative difference after centering; 0.5 is a rotation by 35 degrees or a scale of 1.5.
    """
    middle, expected_middle = found.mean(0), expected.mean(0)
    size = np.linalg.norm(expected - expected_middle)
    rises = np.linalg.norm((found - middle) - (expected - expected_middle)) < limit * size
    away = np.linalg.norm(middle - expected_middle)
    return bool(rises and away < _AWAY * np.linalg.norm(np.ptp(expected, axis=0)))


def check_reading(transform: SpatialTransform, name: str) -> SpatialTransform:
    """Check that a field read in ITK's convention holds displacements, not positions.

    RAS positions read as LPS displacements would collapse the image to a plane, so they are read as positions. LPS positions
    would double its size, which is possible, so they raise an error, as do positions in voxels.

    Raises:
        InputError: if the format is ambiguous; the message lists the candidates.
    """
    (step,) = transform.steps
    assert isinstance(step, FieldStep)
    grid = step.grid
    index, vectors = _sampled(step.array)
    close = _close(index, vectors * lps_signs(grid.dims), grid, 0.5)  # signs as stored in the file
    if close == ["ras-positions"]:
        logger.warning("%s: holds positions in mm, RAS, as its numbers show; they are read as such", name)
        return _of_positions(_flipped(step.array), grid, name)
    if close:
        readings = {"nifti": "displacements in mm, LPS", **{kind: _POSITIONS[kind] for kind in close}}
        raise undecided(name, "vectors", readings)
    return transform
