# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images read with nibabel: NIfTI, Analyze, FreeSurfer's MGH, MINC, PAR/REC and AFNI."""

from __future__ import annotations

import logging
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import InputError, one_line
from ..run_log import doubt
from .hdf5_check import check_hdf5
from .nifti import intent_of, load_nifti, nifti_affine, open_nibabel, time_axis, warn_about_header
from .sizes import check_stated_size
from .stored_image import StoredImage, TimeAxis

__all__ = ["is_nibabel", "nibabel_geometry", "read_nibabel", "stored_of_nibabel"]

logger = logging.getLogger(__name__)

_NIFTI = (".nii", ".hdr", ".img")
_OTHERS = (".mgz", ".mgh", ".mnc", ".par", ".rec", ".head", ".brik")
_COMPRESSED = (".gz", ".bz2")
_TIME_UNIT = {"MGHImage": "msec", "PARRECImage": "sec", "AFNIImage": "sec", "Minc1Image": "sec", "Minc2Image": "sec"}


def is_nibabel(path: Path) -> bool:
    """Whether a file has a suffix that nibabel reads."""
    return _suffix(path) in (*_NIFTI, *_OTHERS)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:-1] if suffixes and suffixes[-1] in _COMPRESSED else suffixes[-1:])


def read_nibabel(path: Path, name: str) -> StoredImage:
    """Read an image with nibabel.

    Raises:
        InputError: if h5py is missing for MINC-2, or the file is not an image.
    """
    return stored_of_nibabel(_load(path, name), name)


def stored_of_nibabel(image: Any, name: str) -> StoredImage:
    """Convert a nibabel image, with warnings about its header.

    Raises:
        InputError: if it has no affine.
    """
    _check_volume(image, name)
    if isinstance(image, nib.nifti1.Nifti1Pair):
        warn_about_header(image, name)
    elif isinstance(image, nib.analyze.AnalyzeImage):
        doubt(logger, "%s: is of Analyze format, which does not say where right is; the left-right axis is a guess", name)
    voxels, channels = _voxels(np.transpose(np.asanyarray(image.dataobj), _axes(image)), min(image.ndim, 3))
    kind = voxels.dtype.newbyteorder("=").name
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        return StoredImage(voxels, image.affine, channels, kind, _time(image))
    intent, text = intent_of(image)
    return StoredImage(voxels, nifti_affine(image), channels, kind, time_axis(image), intent, text)


def nibabel_geometry(path: Path, name: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Number of voxels along each axis, and the affine, ``(4, 4)``, RAS mm, from the header only."""
    image = _load(path, name)
    affine = nifti_affine(image) if isinstance(image, nib.nifti1.Nifti1Pair) else image.affine
    return tuple(image.shape[i] for i in _axes(image)[:3]), affine


def _load(path: Path, name: str) -> Any:
    if path.suffix.lower() == ".mnc" and _is_hdf5(path):
        return _load_minc2(path, name)
    if _suffix(path) == ".nii":
        return load_nifti(path)
    image = open_nibabel(path)
    if isinstance(image, nib.nifti1.Nifti1Pair):
        return load_nifti(path)
    _check_volume(image, name)
    if path.suffix.lower() in (".gz", ".mgz"):
        check_stated_size(path, math.prod(image.shape) * image.get_data_dtype().itemsize, complete=True)
    return image


def _load_minc2(path: Path, name: str) -> Any:
    if not find_spec("h5py"):
        raise InputError(f'{name}: MINC-2 files need h5py, which is not installed; pip install "monai-locor[formats]"')
    try:
        check_hdf5(path)
        return nib.minc2.Minc2Image.from_filename(path)
    except Exception as error:  # h5py and nibabel raise various types
        raise InputError(
            f"{name}: cannot be read ({one_line(error)}); it is an HDF5 file, but no complete MINC volume, check what it is"
        ) from error


def _check_volume(image: Any, name: str) -> None:
    if not isinstance(image, nib.spatialimages.SpatialImage) or image.affine is None:
        raise InputError(f"{name}: {type(image).__name__} is not a volume with an affine; give an image")


def _axes(image: Any) -> list[int]:
    """The axes of an image, spatial axes first; MINC series store time first."""
    others = max(image.ndim - 3, 0) if isinstance(image, nib.minc1.Minc1Image) else 0  # base class of Minc2Image
    return [*range(others, image.ndim), *range(others)]


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _voxels(array: np.ndarray, rank: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Voxels ``(*spatial, C)`` of an array with any further axes, and color names."""
    colors: tuple[str, ...] = ()
    if array.dtype.names:  # RGB of NIfTI
        names = {"R": "red", "G": "green", "B": "blue", "A": "alpha"}
        colors = tuple(names.get(component, component) for component in array.dtype.names)
        array = np.stack([array[component] for component in array.dtype.names], -1)
    voxels = array.reshape(*array.shape[:rank], -1)
    return voxels, colors if voxels.shape[-1] == len(colors) else ()


def _time(image: Any) -> TimeAxis | None:
    zooms, axis = image.header.get_zooms(), _axes(image)[-1]
    if image.ndim != 4 or image.shape[axis] < 2 or len(zooms) < 4 or not zooms[axis] > 0:
        return None
    return TimeAxis(float(zooms[axis]), _TIME_UNIT.get(type(image).__name__, "unknown"))
