# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""elastix: ``TransformParameters`` text files, as applied by ``transformix -tp``.

Like ours, they map fixed to moving points (in LPS). A file may refer to an initial transform in another file, which is
applied first. elastix resolves file names relative to its working directory, so the files written here refer to their field
by its absolute path. On reading, a missing file is also searched for in the folder of the file that refers to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry import AffineStep, Grid, SpatialTransform, SplineStep, Step
from ..itk_linear import ItkTransform, linear_matrix
from ..lps import flipped, lps_signs
from ..paths import atomic_path
from .base import domain_of, invalid
from .elastix_text import Parameters, geometry_lines, line
from .itk_fields import read_vector_image, write_vector_image
from .itk_files import read_itk

__all__ = ["elastix_files", "read_elastix", "write_elastix"]

_LONGEST = 20  # maximum number of files in a chain
_NONE = "NoInitialTransform"


def field_path(path: Path) -> Path:
    """Return the path of the displacement field of a parameter file."""
    return path.with_name(f"{path.stem}_field.mha")


def elastix_files(path: Path) -> list[Path]:
    """Return the files that writing to ``path`` may replace."""
    return [path, field_path(path)]


def read_elastix(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read translations, Euler, similarity, affine and cubic B-spline transforms, displacement fields, and their chains."""
    return SpatialTransform(tuple(_chain(path, name, _LONGEST)))


def _chain(path: Path, name: str, left: int) -> list[Step]:
    if not left:
        raise InputError(f"{name}: its chain of initial transforms has no end; repair the file names in it")
    values = Parameters.read(path, name)
    before: list[Step] = []
    first = values.text("InitialTransformParameterFileName", values.text("InitialTransformParametersFileName", _NONE))
    if first != _NONE:
        if values.text("HowToCombineTransforms", "Compose") != "Compose":
            raise InputError(f"{name}: adds its transforms instead of composing them; make a field with transformix -def all")
        before = _first(_found(first, path, name), left)
    with invalid(name, "is it complete, and of elastix?"):
        return [*before, _step(values, path, name)]


def _first(path: Path, left: int) -> list[Step]:
    name = f"transform {path}"
    if path.suffix.lower() in (".h5", ".tfm"):
        return list(read_itk(path, name, None, None).steps)
    return _chain(path, name, left - 1)


def _found(said: str, path: Path, name: str) -> Path:
    for place in (Path(said), path.parent / Path(said.replace("\\", "/")).name):
        if place.is_file():
            return place
    raise InputError(f"{name}: names {said}, which is not there, nor beside it; put it there")


def _step(values: Parameters, path: Path, name: str) -> Step:
    kind, dims = values.text("Transform"), int(values.numbers("FixedImageDimension", 1)[0])
    if dims not in (2, 3):
        raise InputError(f"{name}: acts on {dims} dimensions; two or three are supported")
    if kind in _LINEAR:
        return _linear(values, kind, dims)
    if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
        return _spline(values, dims, name)
    if kind == "DeformationFieldTransform":
        return read_vector_image(_found(values.text("DeformationFieldFileName"), path, name), name, None, None).steps[0]
    raise InputError(f"{name}: holds a {kind}, which is not supported; make a field of it with transformix -def all")


#: elastix transform names to ITK class names in 2-D and 3-D
_LINEAR = {
    "TranslationTransform": ("TranslationTransform", "TranslationTransform"),
    "EulerTransform": ("Euler2DTransform", "Euler3DTransform"),
    "SimilarityTransform": ("Similarity2DTransform", "Similarity3DTransform"),
    "AffineTransform": ("AffineTransform", "AffineTransform"),
}


def _linear(values: Parameters, kind: str, dims: int) -> AffineStep:
    numbers = values.numbers("TransformParameters")
    center = np.zeros(0) if kind == "TranslationTransform" else values.numbers("CenterOfRotationPoint", dims)
    order = [float(values.text("ComputeZYX") == "true")] if kind == "EulerTransform" and dims == 3 else []
    matrix = linear_matrix(ItkTransform(_LINEAR[kind][dims - 2], dims, numbers, np.append(center, order)))
    assert matrix is not None
    return AffineStep(flipped(matrix))


def _spline(values: Parameters, dims: int, name: str) -> SplineStep:
    order = int(float(values.text("BSplineTransformSplineOrder", "3")))
    if order != 3 or values.text("UseCyclicTransform") == "true":
        raise InputError(f"{name}: holds a spline of order {order} or a cyclic one; make a field with transformix -def all")
    lattice = values.grid("Grid", dims)
    numbers = values.numbers("TransformParameters", dims * int(np.prod(lattice.shape)))
    numbers = numbers.reshape(dims, *reversed(lattice.shape)).transpose(0, *reversed(range(1, dims + 1)))
    return SplineStep(numbers * lps_signs(dims).reshape(-1, *[1] * dims), lattice)


def write_elastix(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write an affine map as a matrix, and any other transform as a displacement field in a second file."""
    grid = domain_of(transform, fixed, name)
    files = [path]
    if transform.is_affine:
        lps = flipped(transform.matrix)
        numbers = [*lps[:-1, :-1].ravel(), *lps[:-1, -1]]
        head = [line("Transform", "AffineTransform"), line("NumberOfParameters", len(numbers))]
        head += [line("TransformParameters", *numbers), line("CenterOfRotationPoint", *np.zeros(grid.dims))]
    else:
        field = field_path(path).resolve()
        files += write_vector_image(field, name, transform, grid, moving)
        head = [line("Transform", "DeformationFieldTransform"), line("NumberOfParameters", 0)]
        head += [line("DeformationFieldFileName", str(field)), line("DeformationFieldInterpolationOrder", 1)]
    text = "\n".join([*head, *_chain_lines(), *geometry_lines(grid), *_resampling_lines()])
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return files


def _chain_lines() -> list[str]:
    # elastix 5.1 renamed the first key (dropped the "s"), so both are written
    first = [line(f"InitialTransform{key}FileName", _NONE) for key in ("Parameter", "Parameters")]
    return [*first, line("HowToCombineTransforms", "Compose")]


def _resampling_lines() -> list[str]:
    return [
        line("FixedInternalImagePixelType", "float"),
        line("MovingInternalImagePixelType", "float"),
        line("ResampleInterpolator", "FinalLinearInterpolator"),
        line("Resampler", "DefaultResampler"),
        line("DefaultPixelValue", 0),
        line("ResultImageFormat", "nii.gz"),
        line("ResultImagePixelType", "float"),
        line("CompressResultImage", "true"),
    ]
