# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Conversion between ITK transform parameters and the steps of a spatial transform: signs, axis orders, lattices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import InputError
from ...geometry import AffineStep, FieldStep, Grid, SplineStep, Step
from ..itk_hdf5 import FIELDS
from ..itk_linear import ItkTransform, linear_matrix
from ..lps import affine_of_itk, flipped, geometry_for_itk, lps_signs

__all__ = ["field_of_vectors", "spline_of", "steps_of_transforms", "transforms_of_steps", "vectors_of_field"]


def steps_of_transforms(transforms: Sequence[ItkTransform], name: str) -> tuple[Step, ...]:
    """Convert one transform or a composite; an ITK composite applies its last transform to points first, ours its first.

    Raises:
        InputError: for several transforms without a composite, and for types other than linear, field and spline.
        ValueError: if the number of parameters does not match the type.
    """
    first = transforms[0] if transforms else None
    if first is not None and first.kind == "CompositeTransform":
        steps = tuple(_step(part, name) for part in reversed(transforms[1:]))
        return steps or (AffineStep(np.eye(first.dims + 1)),)
    if first is None or len(transforms) > 1:
        raise InputError(f"{name}: holds {len(transforms)} transforms side by side; give one, or a composite of them")
    return (_step(first, name),)


def _step(transform: ItkTransform, name: str) -> Step:
    kind, dims = transform.kind, transform.dims
    if dims not in (2, 3):
        raise InputError(f"{name}: acts on {dims} dimensions; two or three are supported")
    matrix = linear_matrix(transform)
    if matrix is not None:
        return AffineStep(flipped(matrix))
    if kind in FIELDS:
        shape, affine = _lattice(transform.fixed, dims)
        return field_of_vectors(transform.parameters.reshape(*reversed(shape), dims), affine)
    if kind in ("BSplineTransform", "BSplineDeformableTransform"):
        return spline_of(transform.fixed, transform.parameters, dims)
    raise InputError(f"{name}: holds a {kind}, which is not supported; write it as a displacement field")


def field_of_vectors(values: np.ndarray, affine: np.ndarray) -> FieldStep:
    """Convert vectors in ITK's layout to a displacement field.

    Args:
        values: ``(..., Y, X, D)``, LPS mm.
        affine: ``(D + 1, D + 1)``, voxels (X first) to RAS mm.
    """
    dims = values.shape[-1]
    data = np.moveaxis(values.transpose(*reversed(range(dims)), dims) * lps_signs(dims), -1, 0)
    return FieldStep(np.ascontiguousarray(data, dtype=np.float32), Grid(data.shape[1:], affine))


def vectors_of_field(step: FieldStep) -> np.ndarray:
    """The inverse of :func:`field_of_vectors`: ``(..., Y, X, D)``, LPS mm, float64."""
    values = np.moveaxis(step.array.astype(np.float64), 0, -1) * lps_signs(step.dims)
    return np.ascontiguousarray(values.transpose(*reversed(range(step.dims)), step.dims))


def spline_of(fixed: np.ndarray, parameters: np.ndarray, dims: int) -> SplineStep:
    """Convert ITK's fixed parameters and parameters to a cubic B-spline."""
    shape, affine = _lattice(np.asarray(fixed, dtype=np.float64), dims)
    values = np.asarray(parameters, dtype=np.float64).reshape(dims, *reversed(shape))
    values = values.transpose(0, *reversed(range(1, dims + 1))) * lps_signs(dims).reshape(-1, *[1] * dims)
    return SplineStep(values, Grid(shape, affine))


def _lattice(fixed: np.ndarray, dims: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine (RAS mm) from ITK's fixed parameters: size, origin, spacing, direction."""
    if len(fixed) != dims * (3 + dims):
        raise ValueError(f"has {len(fixed)} fixed parameters instead of {dims * (3 + dims)}")
    size, origin, spacing = fixed[: 3 * dims].reshape(3, dims)
    return tuple(int(n) for n in size), affine_of_itk(fixed[3 * dims :], spacing, origin)


def transforms_of_steps(steps: Sequence[Step]) -> list[ItkTransform]:
    """Convert steps to the order of an ITK composite, with the first step last."""
    return [_of_step(step) for step in reversed(steps)]


def _of_step(step: Step) -> ItkTransform:
    if isinstance(step, AffineStep):
        lps = flipped(step.matrix)
        numbers = np.append(lps[:-1, :-1].ravel(), lps[:-1, -1])
        return ItkTransform("AffineTransform", step.dims, numbers, np.zeros(step.dims))
    if isinstance(step, FieldStep):
        return ItkTransform("DisplacementFieldTransform", step.dims, vectors_of_field(step).ravel(), _fixed(step.grid))
    values = step.array * lps_signs(step.dims).reshape(-1, *[1] * step.dims)
    flat = values.transpose(0, *reversed(range(1, step.dims + 1))).ravel()
    return ItkTransform("BSplineTransform", step.dims, flat, _fixed(step.grid))


def _fixed(grid: Grid) -> np.ndarray:
    direction, spacing, origin = geometry_for_itk(grid)
    return np.array([*grid.shape, *origin, *spacing, *direction.ravel()])
