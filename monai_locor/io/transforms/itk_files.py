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

"""ITK's transform files: ``.h5`` with any chain of transforms, ``.tfm``, ``.txt`` and ``.mat`` with an affine map.

A composite of ITK applies its last transform to points first; ours its first. ITK has no place for the inverse of a
displacement field in a file, so that a known inverse goes to a second file, ``<name>_inverse.h5``, which is found again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...geometry import AffineStep, FieldStep, Grid, SpatialTransform, SplineStep, Step
from ..fields import flipped, load_itk_transforms, lps_signs, write_affine
from ..itk_library import load_itk
from ..itk_text import read_affine_text
from ..paths import atomic_path
from ..sources import one_line
from .base import invalid, matrix_of
from .consistency import undoes

__all__ = ["inverse_path", "itk_files", "read_itk", "write_itk"]

logger = logging.getLogger(__name__)

_REMEDY = "compute it again"


def inverse_path(path: Path) -> Path:
    """Where the inverse of an ``.h5`` file is kept."""
    return path.with_name(f"{path.stem}_inverse{path.suffix}")


def itk_files(path: Path) -> list[Path]:
    """What writing to ``path`` may replace."""
    return [path, inverse_path(path)] if path.suffix.lower() in (".h5", ".hdf5") else [path]


def read_itk(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Any chain of linear transforms, displacement fields and cubic B-splines that ITK reads."""
    transform = SpatialTransform(_read_steps(path, name))
    back = inverse_path(path)
    if path.suffix.lower() in (".h5", ".hdf5") and not transform.is_affine and back.is_file():
        inverse = SpatialTransform(_read_steps(back, f"transform {back}"))
        if inverse.dims == transform.dims and undoes(inverse, transform):
            return SpatialTransform(transform.steps, inverse.steps)
        logger.warning("%s is left aside: it is not the inverse of %s", back, path)
    return transform


def _read_steps(path: Path, name: str) -> tuple[Step, ...]:
    matrix = read_affine_text(path)
    if matrix is not None:
        with invalid(name, _REMEDY):
            return (AffineStep(flipped(matrix)),)
    transforms = load_itk_transforms(path, name)
    if len(transforms) != 1:
        raise InputError(f"{name}: holds {len(transforms)} transforms side by side; give one, or a composite of them")
    with invalid(name, _REMEDY):
        return tuple(_steps(transforms[0], name))


def _steps(transform: Any, name: str) -> list[Step]:
    import itk

    dims = transform.GetInputSpaceDimension()
    if hasattr(transform, "GetNthTransform"):
        parts = [itk.down_cast(transform.GetNthTransform(i)) for i in range(transform.GetNumberOfTransforms())]
        return [step for part in reversed(parts) for step in _steps(part, name)] or [AffineStep(np.eye(dims + 1))]
    if dims not in (2, 3):
        raise InputError(f"{name}: acts on {dims} dimensions; two or three are supported")
    if transform.IsLinear():
        return [AffineStep(flipped(_probed(transform, dims)))]
    if hasattr(transform, "GetDisplacementField"):
        return [field_of_itk(transform.GetDisplacementField())]
    if hasattr(transform, "GetCoefficientImages"):
        return [_spline(transform, dims)]
    raise InputError(f"{name}: holds a {transform.GetTransformTypeAsString()}, which is not supported; write it as a field")


def _probed(transform: Any, dims: int) -> np.ndarray:
    """The matrix of any linear transform of ITK, from where it takes the origin and the unit vectors."""
    corners = np.array([list(transform.TransformPoint(p.tolist())) for p in np.vstack((np.zeros(dims), np.eye(dims)))])
    matrix = np.eye(dims + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = (corners[1:] - corners[0]).T, corners[0]
    return matrix


def field_of_itk(image: Any) -> FieldStep:
    """The displacement field in an ITK image of vectors."""
    import itk

    data = itk.array_from_image(image)  # last axis first, components last, LPS
    dims = data.shape[-1]
    data = np.moveaxis(data.transpose(*reversed(range(dims)), dims) * lps_signs(dims), -1, 0)
    affine = _affine(itk.array_from_matrix(image.GetDirection()), list(image.GetSpacing()), list(image.GetOrigin()))
    return FieldStep(torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)), Grid(data.shape[1:], affine))


def _affine(direction: np.ndarray, spacing: Any, origin: Any) -> np.ndarray:
    """Voxels to RAS mm, of ITK's geometry (LPS)."""
    affine = np.eye(len(direction) + 1)
    affine[:-1, :-1] = lps_signs(len(direction))[:, None] * direction * np.asarray(spacing)
    affine[:-1, -1] = lps_signs(len(direction)) * np.asarray(origin)
    return affine


def _spline(transform: Any, dims: int) -> SplineStep:
    fixed = np.array(transform.GetFixedParameters())  # size, origin, spacing, direction
    size, origin, spacing = fixed[: 3 * dims].reshape(3, dims)
    shape = tuple(int(n) for n in size)
    values = np.array(transform.GetParameters()).reshape(dims, *reversed(shape))
    values = values.transpose(0, *reversed(range(1, dims + 1))) * lps_signs(dims).reshape(-1, *[1] * dims)
    affine = _affine(fixed[3 * dims :].reshape(dims, dims), spacing, origin)
    return SplineStep(torch.from_numpy(values.copy()), Grid(shape, affine))


def write_itk(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """The steps as they are, without resampling; with the known inverse of a deformation in a second file."""
    if path.suffix.lower() not in (".h5", ".hdf5"):
        write_affine(path, matrix_of(transform, name))
        return [path]
    _write_steps(path, name, transform.steps)
    if transform.is_affine or transform.inverse_steps is None:
        return [path]
    _write_steps(inverse_path(path), name, transform.inverse_steps)
    return [path, inverse_path(path)]


def _write_steps(path: Path, name: str, steps: tuple[Step, ...]) -> None:
    itk = load_itk(name)
    dims = steps[0].dims
    parts = [_to_itk(step, dims) for step in reversed(steps)]  # ITK applies the last first
    whole = parts[0]
    if len(parts) > 1:
        whole = itk.CompositeTransform[itk.D, dims].New()
        for part in parts:
            whole.AddTransform(part)
    try:
        with atomic_path(path) as temporary:
            itk.transformwrite([whole], str(temporary), compression=True)
    except RuntimeError as error:
        raise InputError(f"{name}: cannot be written ({one_line(error)}); is there room, and may you write there?") from error


def _to_itk(step: Step, dims: int) -> Any:
    import itk

    if isinstance(step, AffineStep):
        affine = itk.AffineTransform[itk.D, dims].New()
        lps = flipped(step.matrix)
        affine.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(lps[:-1, :-1])))
        affine.SetTranslation(lps[:-1, -1].tolist())
        return affine
    if isinstance(step, FieldStep):
        return itk.DisplacementFieldTransform[itk.D, dims].New(DisplacementField=field_to_itk(step, itk.D))
    spline = itk.BSplineTransform[itk.D, dims, 3].New()
    direction, spacing, origin = _geometry(step.grid)
    spline.SetFixedParameters(_parameters([*step.grid.shape, *origin, *spacing, *direction.ravel()]))
    values = step.coefficients.cpu().numpy() * lps_signs(dims).reshape(-1, *[1] * dims)
    spline.SetParameters(_parameters(values.transpose(0, *reversed(range(1, dims + 1))).ravel()))
    return spline


def _parameters(values: Any) -> Any:
    import itk

    out = itk.OptimizerParameters[itk.D](len(values))
    for index, value in enumerate(values):
        out[index] = float(value)
    return out


def field_to_itk(step: FieldStep, pixel: Any) -> Any:
    """An ITK image of vectors of type ``pixel`` (``itk.F`` or ``itk.D``)."""
    import itk

    dims = step.dims
    image = itk.Image[itk.Vector[pixel, dims], dims].New()
    image.SetRegions(list(step.grid.shape))
    image.Allocate()
    values = np.moveaxis(step.displacement.cpu().numpy(), 0, -1) * lps_signs(dims)
    itk.array_view_from_image(image)[:] = values.transpose(*reversed(range(dims)), dims)
    direction, spacing, origin = _geometry(step.grid)
    image.SetDirection(itk.matrix_from_array(direction))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def _geometry(grid: Grid) -> tuple[np.ndarray, list[float], list[float]]:
    """Direction, spacing and origin of a grid in LPS; a sheared direction is one that ITK's own files keep."""
    signs = lps_signs(grid.dims)
    direction = np.ascontiguousarray(signs[:, None] * grid.affine[:-1, :-1] / grid.spacing)
    return direction, grid.spacing.tolist(), (signs * grid.affine[:-1, -1]).tolist()
