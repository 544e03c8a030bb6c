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

"""NIfTI headers: what they say of the world, and how ours are written."""

from __future__ import annotations

import logging
import os

import nibabel as nib
import numpy as np

from ..errors import InputError
from ..geometry import Grid
from .paths import atomic_path

__all__ = ["has_shear", "in_mm", "is_nifti", "load_nifti", "save_nifti", "three_dimensional", "warn_about_header"]

logger = logging.getLogger(__name__)

_MM = {"micron": 1e-3, "meter": 1e3}  # the units of NIfTI


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a file says that it is a NIfTI image."""
    return os.fspath(path).lower().endswith((".nii", ".nii.gz"))


def load_nifti(path: str | os.PathLike[str]) -> nib.nifti1.Nifti1Pair:
    """A NIfTI-1 or NIfTI-2 file, its voxels still on disk.

    Raises:
        ValueError: when the file is of another format whatever its name; and what nibabel raises.
    """
    image = nib.load(path)
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise ValueError(f"{type(image).__name__} is not NIfTI")
    return image


def in_mm(affine: np.ndarray, image: nib.nifti1.Nifti1Pair) -> np.ndarray:
    """An affine of a header in the header's unit of length, ``(4, 4)``, in mm, as ITK and all that builds on it reads it.

    Lengths of unknown unit are taken to be mm. nibabel leaves the unit to its user.
    """
    scale = _MM.get(image.header.get_xyzt_units()[0], 1.0)
    return np.diag([scale, scale, scale, 1.0]) @ affine


def three_dimensional(affine: np.ndarray) -> np.ndarray:
    """The ``(4, 4)`` affine that files carry, of an image with up to three axes; added axes have voxels of 1 mm."""
    dims = affine.shape[0] - 1
    full = np.eye(4)
    full[:dims, :dims] = affine[:dims, :dims]
    full[:dims, 3] = affine[:dims, dims]
    return full


def has_shear(grid: Grid) -> bool:
    """Whether the axes of a grid are not at right angles, which ITK and NIfTI's qform cannot express."""
    axes = grid.affine[: grid.dims, : grid.dims] / grid.spacing
    return not np.allclose(axes.T @ axes, np.eye(grid.dims), atol=1e-5)


def save_nifti(path: str | os.PathLike[str], data: np.ndarray, grid: Grid, intent: str | None = None) -> None:
    """Write an array on a grid as NIfTI in mm, with sform and, unless the grid is sheared, qform.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; the file is replaced as a whole or not at all.
        data: ``(X, Y, Z, ...)``, or ``(X, Y)``.
        grid: where the voxels lie.
        intent: NIfTI intent, e.g. ``"vector"``.

    Raises:
        InputError: when ``path`` has another suffix.
    """
    if not is_nifti(path):
        raise InputError(f"output file {os.fspath(path)}: its name must end in .nii or .nii.gz")
    affine = three_dimensional(grid.affine)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    if has_shear(grid):
        logger.warning("%s: its axes are not at right angles, which ITK and what builds on it may refuse", os.fspath(path))
    else:
        image.set_qform(affine, code="scanner")
    if intent is not None:
        image.header.set_intent(intent)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def warn_about_header(image: nib.nifti1.Nifti1Pair, used: np.ndarray, name: str) -> None:
    """Log what a NIfTI header says about its world that the reader cannot honour, or that its user may not expect.

    Args:
        image: as nibabel loads it.
        used: ``(4, 4)`` the affine that is used, in the header's unit.
        name: of the image, for the message.
    """
    header = image.header
    sform, qform = image.get_sform(coded=True)[0], _qform(image)
    if sform is None and qform is None:
        logger.warning("%s: its header has neither sform nor qform; its place in the world is a guess", name)
    elif sform is not None and qform is not None and not np.allclose(sform, qform, rtol=1e-3, atol=1e-3):
        which = "sform" if np.allclose(used, sform, rtol=1e-3, atol=1e-3) else "qform"
        logger.warning("%s: sform and qform of its header disagree; the %s is used", name, which)
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        logger.warning("%s: its header gives lengths in %s; they are converted to mm", name, unit)


def _qform(image: nib.nifti1.Nifti1Pair) -> np.ndarray | None:
    try:
        return image.get_qform(coded=True)[0]
    except (nib.spatialimages.HeaderDataError, ValueError):  # not a rotation
        return np.full((4, 4), np.nan)
