# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images and transforms as objects of other libraries, with the geometry of a grid; ANTsPy's as its documentation has them."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_locor.geometry import Grid
from monai_locor.io.lps import geometry_for_itk

itk, sitk = pytest.importorskip("itk"), pytest.importorskip("SimpleITK")


class ANTsImage:
    """What is documented of ``ants.ANTsImage`` (ANTsPy 0.6): LPS, first axis first, components last."""

    def __init__(self, array: np.ndarray, grid: Grid) -> None:
        direction, spacing, origin = geometry_for_itk(grid)
        self.direction, self.spacing, self.origin = direction, tuple(spacing), tuple(origin)
        self.dimension, self.pixeltype = len(spacing), "float"
        self.components = array.shape[self.dimension] if array.ndim > self.dimension else 1
        self.has_components = self.components > 1
        self.shape, self._array = array.shape[: self.dimension], array

    def numpy(self) -> np.ndarray:
        return self._array.copy()


class ANTsTransform:
    """What is documented of ``ants.ANTsTransform``, around a transform of SimpleITK."""

    def __init__(self, transform: sitk.Transform, transform_type: str) -> None:
        self.transform_type = self.type = transform_type
        self.dimension = transform.GetDimension()
        self.pointer = transform

    def apply_to_point(self, point: Any) -> tuple[float, ...]:
        return tuple(self.pointer.TransformPoint(point))


def write_ants_transform(transform: ANTsTransform, filename: str) -> None:
    """``ants.write_transform``."""
    sitk.WriteTransform(transform.pointer, filename)


ANTsImage.__module__, ANTsTransform.__module__ = "ants.core.ants_image", "ants.core.ants_transform"


def _reversed(array: np.ndarray, dims: int) -> np.ndarray:
    """Last axis first, components last."""
    return np.ascontiguousarray(array.transpose(*reversed(range(dims)), *range(dims, array.ndim)))


def nibabel_image(array: np.ndarray, grid: Grid) -> nib.Nifti1Image:
    components = array.shape[grid.dims :]
    if components:
        array = array.reshape(*grid.shape, *[1] * (3 - grid.dims), *components)
    return nib.Nifti1Image(array, grid.full_affine)


def sitk_image(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(_reversed(array, grid.dims), isVector=array.ndim > grid.dims)
    direction, spacing, origin = geometry_for_itk(grid)
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def itk_image(array: np.ndarray, grid: Grid) -> Any:
    image = itk.image_from_array(_reversed(array, grid.dims), is_vector=array.ndim > grid.dims)
    direction, spacing, origin = geometry_for_itk(grid)
    image.SetDirection(itk.matrix_from_array(direction))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


#: array ``(*spatial)`` or ``(*spatial, C)`` and grid to an image of the library
IMAGES = {"nibabel": nibabel_image, "SimpleITK": sitk_image, "itk": itk_image, "ants": ANTsImage}
