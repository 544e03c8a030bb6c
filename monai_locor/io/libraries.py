# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Image objects of nibabel, SimpleITK, ITK and ANTsPy, recognized by class without importing these libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, one_line
from ..geometry import full_affine
from .lps import affine_of_itk, geometry_for_itk
from .nibabel_images import stored_of_nibabel
from .stored_image import StoredImage

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["from_library", "image_for_itk", "image_for_simpleitk", "itk_image", "library_of", "placed_image", "simpleitk_image"]


def library_of(value: Any) -> str:
    """The library that defines an object's class: ``"nibabel"``, ``"SimpleITK"``, ``"itk"``, ``"ants"``, or ``""``.

    >>> library_of("a file")
    ''
    """
    if isinstance(value, np.ndarray):  # includes ITK's array views
        return ""
    tops = (cls.__module__.partition(".")[0] for cls in type(value).__mro__)
    return next((top for top in tops if top == "nibabel" or top in _READERS), "")


def from_library(image: Any, name: str) -> StoredImage | None:
    """Convert an image object of another library; None for anything else.

    Args:
        image: nibabel image of any format with an affine; ``SimpleITK.Image``; ``itk.Image``, ``itk.VectorImage`` or a filter
            that outputs one; ``ants.ANTsImage``.
        name: name of the image for messages.

    Raises:
        InputError: if it is an object of one of these libraries but not an image with voxels.
    """
    library = library_of(image)
    if library == "nibabel":
        return stored_of_nibabel(image, name)
    if not library:
        return None
    try:
        voxels, affine = _READERS[library](image)
    except Exception as error:  # the libraries raise various types
        raise InputError(
            f"{name}: {library}'s {type(image).__name__} cannot be registered ({one_line(error)}); "
            "give an image with voxels and a geometry, or a file"
        ) from error
    return StoredImage(voxels, full_affine(affine), dtype=voxels.dtype.name)


def simpleitk_image(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(*spatial, C)`` and affine, RAS mm, of a ``SimpleITK.Image``; a fourth axis becomes channels."""
    kind = image.GetPixelIDTypeAsString()
    if kind.startswith("label"):  # GetArrayFromImage would crash the process
        raise ValueError(f"it is a map of {kind}, use SimpleITK.LabelMapToLabel")
    array = sys.modules["SimpleITK"].GetArrayFromImage(image)
    return _from_itk(array, image.GetSize(), image.GetDirection(), image.GetSpacing(), image.GetOrigin())


def itk_image(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(*spatial, C)`` and affine, RAS mm, of an ITK image or a filter's output; a fourth axis becomes channels."""
    itk = sys.modules["itk"]
    if not hasattr(image, "GetBufferedRegion"):
        image.Update()
        image = image.GetOutput()
    image.Update()
    array = itk.array_from_image(image)  # a view would not outlive the image
    region = image.GetBufferedRegion()
    direction, spacing = itk.array_from_matrix(image.GetDirection()), np.array(image.GetSpacing())
    # origin of the first voxel, whose index is not 0 in cropped images
    origin = np.array(image.GetOrigin()) + direction @ (spacing * np.array(region.GetIndex()))
    return _from_itk(array, tuple(region.GetSize()), direction, spacing, origin)


def _ants_image(image: Any) -> tuple[np.ndarray, np.ndarray]:
    array = image.numpy()  # first axis first, components last
    dims = len(image.spacing)
    affine = _spatial(np.asarray(image.direction), image.spacing, image.origin)
    return array.reshape(*array.shape[: min(dims, 3)], -1), affine


def _from_itk(array: np.ndarray, size: Any, direction: Any, spacing: Any, origin: Any) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine from an array with last axis first and components last; ``size`` excludes components."""
    size = tuple(int(n) for n in size)
    voxels = array.reshape(*reversed(size), -1)
    voxels = voxels.transpose(*reversed(range(len(size))), len(size))
    voxels = voxels.reshape(*voxels.shape[:3], -1) if len(size) > 3 else voxels
    return voxels, _spatial(np.asarray(direction).reshape(len(size), len(size)), spacing, origin)


def _spatial(direction: np.ndarray, spacing: Any, origin: Any) -> np.ndarray:
    """The affine of the first three axes, RAS mm."""
    dims = min(len(direction), 3)
    return affine_of_itk(direction[:dims, :dims], spacing[:dims], origin[:dims])


def image_for_simpleitk(image: Any, grid: Grid) -> Any:
    """Convert a tensor or array ``(C, *grid.shape)`` to a ``SimpleITK.Image``.

    Raises:
        ImportError: if SimpleITK is not installed.
    """
    import SimpleITK as sitk

    array, vector, grid = _for_itk(image, grid)
    return placed_image(sitk.GetImageFromArray(array, isVector=vector), grid)


def image_for_itk(image: Any, grid: Grid) -> Any:
    """Convert a tensor or array ``(C, *grid.shape)`` to an ITK image.

    Raises:
        ImportError: if ITK is not installed.
    """
    import itk

    array, vector, grid = _for_itk(image, grid)
    return placed_image(itk.image_from_array(array, is_vector=vector), grid)


def placed_image(image: Any, grid: Grid) -> Any:
    """Set direction, spacing and origin of an image of SimpleITK or ITK to those of a grid, and return it."""
    direction, spacing, origin = geometry_for_itk(grid)
    simple = library_of(image) == "SimpleITK"
    image.SetDirection(direction.ravel().tolist() if simple else sys.modules["itk"].matrix_from_array(direction))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def _for_itk(image: Any, grid: Grid) -> tuple[np.ndarray, bool, Grid]:
    """Array with last axis first and components last, bool as uint8; whether it has several components; and its 3-D grid."""
    from ..tensors import as_tensor, host_array  # imports torch

    array = host_array(as_tensor(image))
    array = np.moveaxis(array.astype(np.uint8) if array.dtype == bool else array, 0, -1)
    grid = grid.in_space
    array = array.reshape(*grid.shape, -1).transpose(*reversed(range(grid.dims)), grid.dims)
    vector = array.shape[-1] > 1
    return np.ascontiguousarray(array if vector else array[..., 0]), vector, grid


_READERS: dict[str, Callable[[Any], tuple[np.ndarray, np.ndarray]]] = {
    "SimpleITK": simpleitk_image,
    "itk": itk_image,
    "ants": _ants_image,
}
