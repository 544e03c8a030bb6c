# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Image files of any format: voxels, affine and metadata. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from ..errors import InputError
from .dicom import dicom_geometry, is_dicom, is_series, read_dicom
from .itk_images import itk_geometry, read_itk
from .nibabel_images import is_nibabel, nibabel_geometry, read_nibabel
from .ome_zarr.reading import is_ome_zarr, ome_zarr_geometry, read_ome_zarr
from .paths import is_picture
from .pictures import picture_geometry, read_picture
from .read_errors import read_error
from .stored_image import StoredImage

__all__ = ["read_geometry", "read_stored"]

Read = TypeVar("Read")
Reader: TypeAlias = Callable[[Path, str], Read]


def read_stored(path: Path, name: str) -> StoredImage:
    """Read an image as stored, without checks or conversion.

    NIfTI, Analyze, MGH, MINC, PAR/REC and AFNI files are read with nibabel, DICOM files and folders with
    :func:`monai_locor.io.dicom.read_dicom` (``FOLDER/UID`` is one of several series in a folder), pictures with
    :func:`monai_locor.io.pictures.read_picture`, OME-Zarr with :mod:`monai_locor.io.ome_zarr`, all others with ITK.

    Args:
        path: the file or folder, with ``~`` expanded.
        name: name of the image for messages.

    Raises:
        InputError: if there is no such file or it cannot be read.
    """
    zarr = is_ome_zarr(path)
    return _reading(read_ome_zarr if zarr else _chosen(path, read_dicom, read_nibabel, read_picture, read_itk), path, name)


def read_geometry(path: Path, name: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Number of voxels along each of the two or three axes of an image, and its affine, ``(4, 4)``, RAS mm.

    For NIfTI and most other formats only the header is read. Arguments and errors as for :func:`read_stored`.
    """
    if is_ome_zarr(path):
        return _reading(ome_zarr_geometry, path, name)
    return _reading(_chosen(path, dicom_geometry, nibabel_geometry, picture_geometry, itk_geometry), path, name)


def _chosen(path: Path, dicom: Reader[Read], nibabel: Reader[Read], picture: Reader[Read], itk: Reader[Read]) -> Reader[Read]:
    """The reader for a file."""
    if not is_series(path) and is_nibabel(path):
        return nibabel
    if is_series(path) or is_dicom(path):
        return dicom
    return picture if is_picture(path) else itk


def _reading(read: Reader[Read], path: Path, name: str) -> Read:
    if not path.exists() and not is_series(path):
        raise InputError(f"{name}: no such file; check its path")
    try:
        found = read(path, name)
        if isinstance(found, StoredImage) and np.iscomplexobj(found.voxels):
            raise InputError(
                f"{name}: its voxels are complex ({found.voxels.dtype}); save the magnitude or the phase as an image"
            )
        return found
    except InputError:
        raise
    except Exception as error:  # exceptions of the libraries
        raise read_error(name, error) from error
