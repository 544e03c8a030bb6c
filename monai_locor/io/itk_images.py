# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images read with ITK: NRRD, MetaImage, TIFF, PNG and its other formats, with any number of components.

SimpleITK is preferred if installed and not too old: it has the same readers and imports in 0.2 seconds, the ``itk`` package
in three.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import full_affine
from .channel_names import NAMING, channel_names
from .itk_headers import check_directions, check_itk_header
from .itk_library import load_itk, load_simpleitk
from .libraries import simpleitk_image
from .lps import affine_of_itk
from .sizes import check_stated_size
from .stored_image import StoredImage, TimeAxis

__all__ = ["affine_of_header", "components", "itk_geometry", "read_itk"]

logger = logging.getLogger(__name__)

HEAD_BYTES = 2**16  # of a file, read to find out where its voxels are
# ITK component type: numpy dtype, and the wrapped itk types that can hold it, best first
_TYPES = {
    "unsigned_char": ("uint8", "UC"),
    "char": ("int8", "SC SS"),
    "unsigned_short": ("uint16", "US"),
    "short": ("int16", "SS"),
    "unsigned_int": ("uint32", "UI D"),
    "int": ("int32", "SI D"),
    "unsigned_long": ("uint64", "UL ULL D"),
    "long": ("int64", "SL SLL D"),
    "unsigned_long_long": ("uint64", "ULL UL D"),
    "long_long": ("int64", "SLL SL D"),
    "float": ("float32", "F"),
    "double": ("float64", "D F"),
}


def read_itk(path: Path, name: str) -> StoredImage:
    """Read an image with ITK, with all components.

    Raises:
        InputError: if ITK is not installed or does not support the format, or the image does not have 2, 3 or 4 axes or has
            complex voxels.
    """
    check_itk_header(path)
    return _of_simpleitk(path) or _of_itk(path, name)


def itk_geometry(path: Path, name: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Number of voxels along each axis, and the affine, ``(4, 4)``, RAS mm, from the header only."""
    check_itk_header(path)
    reader = _simpleitk_reader(path)
    if reader is not None:
        affine = affine_of_itk(reader.GetDirection(), reader.GetSpacing(), reader.GetOrigin())
        return tuple(reader.GetSize()[:3]), full_affine(affine)
    header = _header(path, name, load_itk(name))
    return tuple(int(header.GetDimensions(i)) for i in range(min(header.GetNumberOfDimensions(), 3))), affine_of_header(header)


def _simpleitk_reader(path: Path) -> Any | None:
    """SimpleITK reader with the header read; None if it is not usable or does not support the pixel type.

    Raises:
        RuntimeError: if the file is damaged or of another format; itk has the same readers and would also fail.
    """
    sitk = load_simpleitk()
    if sitk is None:
        return None
    reader, shown = sitk.ImageFileReader(), sitk.ProcessObject.GetGlobalWarningDisplay()
    reader.SetFileName(str(path))
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # multi-line, without file name
    try:
        reader.ReadImageInformation()
        check_directions(reader.GetDirection())
    except RuntimeError as error:
        if "PixelType" in str(error):  # such as gray and alpha, which itk reads
            return None
        raise
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    return reader if reader.GetDimension() in (2, 3, 4) else None


def _of_simpleitk(path: Path) -> StoredImage | None:
    reader, sitk = _simpleitk_reader(path), load_simpleitk()
    if reader is None or sitk is None:
        return None
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    _check_size(path, reader.GetSize(), reader.GetNumberOfComponents() * int(bits[1] if bits else 8) // 8)
    image = reader.Execute()
    voxels, affine = simpleitk_image(image)
    count = image.GetNumberOfComponentsPerPixel()
    said = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if key.startswith(NAMING)}
    series = image.GetDimension() == 4 and count == 1
    time = TimeAxis(image.GetSpacing()[3], "unknown", image.GetOrigin()[3]) if series else None
    names = channel_names(path, count, said) if voxels.shape[-1] == count else ()
    return StoredImage(voxels, full_affine(affine), names, voxels.dtype.name, time)


def _of_itk(path: Path, name: str) -> StoredImage:
    itk = load_itk(name)
    header = _header(path, name, itk)
    count = header.GetNumberOfComponents()
    pixel, component = header.GetPixelTypeAsString(header.GetPixelType()), _component(header)
    if pixel == "complex":
        raise InputError(f"{name}: its voxels are complex; save the magnitude or the phase as an image")
    shape = [header.GetDimensions(i) for i in range(header.GetNumberOfDimensions())]
    _check_size(path, shape, count * header.GetComponentSize())
    reader = itk.ImageFileReader[_image_type(component, count, header.GetNumberOfDimensions(), name, itk)].New()
    reader.SetFileName(str(path))
    reader.SetImageIO(header)
    reader.Update()
    image = reader.GetOutput()
    dims, stored = image.GetImageDimension(), _TYPES[component][0]
    array = np.array(itk.array_view_from_image(image)).reshape(*reversed([int(n) for n in itk.size(image)]), count)
    voxels = np.transpose(array, (*reversed(range(dims)), dims)).astype(stored, copy=False)  # from (..., Y, X, C)
    if count == 2 and pixel == "scalar":  # gray and alpha of PNG
        logger.warning("%s: its alpha channel (transparency) is left out", name)
        voxels, count = voxels[..., :1], 1
    time = TimeAxis(float(image.GetSpacing()[3]), "unknown", float(image.GetOrigin()[3])) if dims == 4 and count == 1 else None
    voxels = voxels.reshape(*voxels.shape[: min(dims, 3)], -1)
    tags = header.GetMetaDataDictionary()
    said = {key: str(tags[key]) for key in tags.GetKeys() if key.startswith(NAMING)}
    names = channel_names(path, count, said) if voxels.shape[-1] == count else ()
    return StoredImage(voxels, affine_of_header(header), names, stored, time)


def _check_size(path: Path, shape: Sequence[int], voxel_bytes: int) -> None:
    """Check the size that a header states, before ITK allocates memory for it."""
    check_stated_size(path, math.prod(map(int, shape)) * voxel_bytes, complete=_holds_its_voxels(path))


def _holds_its_voxels(path: Path) -> bool:
    """Whether the voxels of a NRRD or MetaImage are in this file, uncompressed or compressed with DEFLATE."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).lower()
    if head.startswith(b"nrrd"):
        fields = head.split(b"\n\n")[0]
        return not re.search(rb"^data ?file:", fields, re.MULTILINE) and b"bz" not in fields
    return re.search(rb"^elementdatafile\s*=\s*local", head, re.MULTILINE) is not None


def _header(path: Path, name: str, itk: Any) -> Any:
    """ITK's ImageIO for the file, with the header read."""
    reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        raise InputError(
            f"{name}: cannot be read; it is empty, or neither nibabel nor ITK reads its format; convert it to NIfTI"
        )
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    check_directions(components(reader))
    return reader


def _component(header: Any) -> str:
    return str(header.GetComponentTypeAsString(header.GetComponentType()))


def _image_type(component: str, count: int, dims: int, name: str, itk: Any) -> Any:
    """An itk image type for these voxels; multi-component images are wrapped for few types."""
    if dims not in (2, 3, 4) or component not in _TYPES:
        raise InputError(f"{name}: has {dims} axes and voxels of type {component}; give an image of numbers with two or three")
    template = itk.Image if count == 1 else itk.VectorImage
    kinds = [(getattr(itk, code), dims) for code in (*_TYPES[component][1].split(), "D") if hasattr(itk, code)]
    wrapped = set(template.keys())
    return template[next(kind for kind in kinds if kind in wrapped)]


def components(header: Any) -> Iterator[float]:
    """All components of the directions of the axes."""
    for axis in range(header.GetNumberOfDimensions()):
        yield from header.GetDirection(axis)


def affine_of_header(header: Any) -> np.ndarray:
    """Affine of the spatial axes, voxels to world, ``(4, 4)``, RAS mm."""
    dims = min(header.GetNumberOfDimensions(), 3)
    direction = np.array([np.array(header.GetDirection(i))[:dims] for i in range(dims)]).T  # columns
    spacing, origin = ([values(i) for i in range(dims)] for values in (header.GetSpacing, header.GetOrigin))
    return full_affine(affine_of_itk(direction, spacing, origin))
