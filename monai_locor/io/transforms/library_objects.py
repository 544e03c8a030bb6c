# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Conversion of SimpleITK, ITK and ANTsPy transforms to and from steps of :class:`monai_locor.geometry.SpatialTransform`.

An ITK composite applies its last transform to points first, ours its first.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, one_line
from ...geometry import AffineStep, FieldStep, Grid, SpatialTransform, Step
from ..itk_hdf5 import itk_transform
from ..libraries import from_library, itk_image, library_of, placed_image, simpleitk_image
from ..lps import flipped, lps_signs
from .itk_steps import field_of_vectors, spline_of, transforms_of_steps, vectors_of_field

__all__ = [
    "field_of_itk",
    "from_object",
    "itk_of_steps",
    "simpleitk_of_steps",
    "steps_of_object",
]


def from_object(value: Any, name: str) -> SpatialTransform | None:
    """Convert a transform or displacement field image of SimpleITK, ITK or ANTsPy; return None for anything else.

    Raises:
        InputError: if an object of one of these libraries cannot be used as a transform.
    """
    if library_of(value) not in ("SimpleITK", "itk", "ants"):
        return None
    try:
        if _is_image(value):
            return SpatialTransform((_field_of_image(value, name),))
        return SpatialTransform(steps_of_object(value, name))
    except InputError:
        raise
    except Exception as error:  # the libraries raise exceptions of many types
        raise InputError(
            f"{name}: {library_of(value)}'s {type(value).__name__} cannot be used as a transform ({one_line(error)}); "
            "give a linear one, a displacement field, a cubic B-spline, a composite of these, or a file"
        ) from error


def _is_image(value: Any) -> bool:
    """Whether a value is an image of SimpleITK, ITK or ANTsPy."""
    return any(hasattr(value, name) for name in ("GetPixelIDTypeAsString", "GetBufferedRegion", "pixeltype"))


def _field_of_image(image: Any, name: str) -> FieldStep:
    stored = from_library(image, name)
    assert stored is not None
    dims = len(stored.shape)
    if stored.voxels.shape[-1] != dims:
        raise InputError(
            f"{name}: is an image of {stored.voxels.shape[-1]} components per voxel, not a transform; give a displacement "
            f"field of {dims} (LPS mm), or a transform"
        )
    affine = np.eye(dims + 1)
    affine[:-1, :-1], affine[:-1, -1] = stored.affine[:dims, :dims], stored.affine[:dims, 3]
    return FieldStep(np.moveaxis(stored.voxels * lps_signs(dims), -1, 0), Grid(stored.shape, affine))


def steps_of_object(transform: Any, name: str) -> tuple[Step, ...]:
    """Convert a SimpleITK, ITK or ANTsPy transform: linear, displacement field, cubic B-spline or composite.

    Raises:
        InputError: for any other type.
    """
    if library_of(transform) == "ants":
        return _steps_of_ants(transform, name)
    transform = _downcast(transform)
    dims = _dimensions(transform)
    if hasattr(transform, "GetNthTransform"):
        parts = [transform.GetNthTransform(i) for i in range(transform.GetNumberOfTransforms())]
        steps = tuple(step for part in reversed(parts) for step in steps_of_object(part, name))
        return steps or (AffineStep(np.eye(dims + 1)),)
    if dims not in (2, 3):
        raise InputError(f"{name}: acts on {dims} dimensions; two or three are supported")
    if transform.IsLinear():
        return (AffineStep(flipped(_probed(transform.TransformPoint, dims))),)
    if hasattr(transform, "GetDisplacementField"):
        return (field_of_itk(transform.GetDisplacementField()),)
    if hasattr(transform, "GetCoefficientImages") and _spline_order(transform) == 3:
        return (spline_of(transform.GetFixedParameters(), transform.GetParameters(), dims),)
    kind = type(transform).__name__
    raise InputError(f"{name}: holds a {kind} other than a cubic B-spline, which is not supported; write it as a field")


def _downcast(transform: Any) -> Any:
    """Return the transform as an object of its most derived class."""
    return transform.Downcast() if hasattr(transform, "Downcast") else sys.modules["itk"].down_cast(transform)


def _dimensions(transform: Any) -> int:
    known = "GetInputSpaceDimension" if hasattr(transform, "GetInputSpaceDimension") else "GetDimension"
    return int(getattr(transform, known)())


def _spline_order(transform: Any) -> int:
    """Return the spline order; in ITK's Python package, where it is a template parameter, only order 3 is wrapped."""
    return int(transform.GetOrder()) if hasattr(transform, "GetOrder") else 3


def _probed(point: Any, dims: int) -> np.ndarray:
    """Return the matrix of a linear map of points, from the images of the origin and the unit vectors."""
    corners = np.array([list(point(p.tolist())) for p in np.vstack((np.zeros(dims), np.eye(dims)))])
    matrix = np.eye(dims + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = (corners[1:] - corners[0]).T, corners[0]
    return matrix


def _steps_of_ants(transform: Any, name: str) -> tuple[Step, ...]:
    """Convert an ``ants.ANTsTransform``; the parts of a composite are accessible only by writing it to a file."""
    kind = str(transform.transform_type)
    if kind == "DisplacementFieldTransform":
        raise InputError(f"{name}: ANTsPy does not tell the grid of a {kind}; give the file that the field was read from")
    if not kind.startswith("Composite"):
        return (AffineStep(flipped(_probed(transform.apply_to_point, int(transform.dimension)))),)
    from .files import read_transform

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "composite.h5")
        sys.modules["ants"].write_transform(transform, str(file))
        return read_transform(file, format="itk").steps


def field_of_itk(image: Any) -> FieldStep:
    """Convert a vector image of SimpleITK or ITK to a displacement field."""
    voxels, affine = (simpleitk_image if library_of(image) == "SimpleITK" else itk_image)(image)
    return field_of_vectors(voxels.transpose(*reversed(range(voxels.ndim - 1)), -1), affine)


def itk_of_steps(steps: Sequence[Step]) -> Any:
    """Convert steps to a double-precision ITK transform, a composite if there are several.

    Raises:
        ImportError: if ITK is not installed.
    """
    return itk_transform(transforms_of_steps(steps))


def simpleitk_of_steps(steps: Sequence[Step]) -> Any:
    """Convert steps to a SimpleITK transform, a composite if there are several.

    Raises:
        ImportError: if SimpleITK is not installed.
    """
    import SimpleITK as sitk

    parts = [_to_simpleitk(step) for step in reversed(steps)]  # ITK applies the last first
    if len(parts) == 1:
        return parts[0]
    whole = sitk.CompositeTransform(steps[0].dims)
    for part in parts:
        whole.AddTransform(part)
    return whole


def _to_simpleitk(step: Step) -> Any:
    import SimpleITK as sitk

    if isinstance(step, FieldStep):
        image = sitk.GetImageFromArray(vectors_of_field(step), isVector=True)  # SetParameters would take minutes
        return sitk.DisplacementFieldTransform(placed_image(image, step.grid))
    (written,) = transforms_of_steps((step,))
    out = sitk.AffineTransform(step.dims) if isinstance(step, AffineStep) else sitk.BSplineTransform(step.dims, 3)
    out.SetFixedParameters(written.fixed.tolist())
    out.SetParameters(written.parameters.tolist())
    return out
