# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""ITK transforms in HDF5 (``.h5``): read with h5py if installed, else with ITK; written with ITK."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .hdf5_check import open_hdf5
from .itk_library import itk_class, load_itk
from .itk_linear import ItkTransform
from .sizes import check_stated_size

__all__ = ["FIELDS", "SIGNATURE", "itk_parameters", "itk_transform", "itk_view", "read_hdf5", "write_hdf5"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: displacement field transforms; the types of ITK's registrations only add smoothing parameters
FIELDS = (
    "DisplacementFieldTransform",
    "GaussianSmoothingOnUpdateDisplacementFieldTransform",
    "BSplineSmoothingOnUpdateDisplacementFieldTransform",
)


def read_hdf5(path: Path, name: str) -> list[ItkTransform]:
    """The transforms in a file, with a composite before its components.

    Raises:
        InputError: if neither h5py nor ITK is installed.
        Exception: any exception of the libraries, if the file is damaged.
    """
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise ValueError("is not an HDF5 file")
    return _with_h5py(path) if find_spec("h5py") else _with_itk(path, name)


def _with_h5py(path: Path) -> list[ItkTransform]:
    with open_hdf5(path) as file:
        group = file.get("TransformGroup", {})
        if not len(group) or any("TransformType" not in part for part in group.values()):
            raise ValueError("is not an HDF5 file of ITK: transforms lack a type (X5 is read with h5py, others are not)")
        numbers = [values for part in group.values() for values in part.values() if hasattr(values, "nbytes")]
        check_stated_size(path, sum(int(values.nbytes) for values in numbers), complete=True)
        return [_of_group(group[str(index)]) for index in range(len(group))]


def _of_group(group: Any) -> ItkTransform:
    kind = group["TransformType"][0]
    # ITK before version 5 misspelled the keys
    values = [
        next((group[key][()].ravel() for key in (f"Transform{what}", f"Tranform{what}") if key in group), np.zeros(0))
        for what in ("Parameters", "FixedParameters")
    ]
    return ItkTransform.of(kind.decode() if isinstance(kind, bytes) else str(kind), *values)


def _with_itk(path: Path, name: str) -> list[ItkTransform]:
    load_itk(name)
    itk_class("HDF5TransformIO", "Factory").RegisterOneFactory()
    reader = itk_class("HDF5TransformIO", "TemplateD").New()
    reader.SetFileName(str(path))
    reader.Read()
    found = reader.GetReadTransformList()
    return [_of_itk(found[index]) for index in range(len(found))]


def _of_itk(transform: Any) -> ItkTransform:
    type_ = transform.GetTransformTypeAsString()
    if type_.startswith("Composite"):
        return ItkTransform.of(type_, np.zeros(0), np.zeros(0))
    fixed = np.array(list(transform.GetFixedParameters()))
    if not type_.startswith(FIELDS):
        return ItkTransform.of(type_, np.array(list(transform.GetParameters())), fixed)
    dims = transform.GetInputSpaceDimension()
    image = itk_class("DisplacementFieldTransform", f"D{dims}").cast(transform).GetDisplacementField()
    return ItkTransform.of(type_, itk_view(image, dims).ravel().copy(), fixed)  # GetParameters would take minutes


def write_hdf5(path: Path, transforms: Sequence[ItkTransform], name: str) -> None:
    """Write one transform, or several as a composite that applies the last one to points first.

    Args:
        transforms: affine maps, displacement fields and cubic B-splines, D = 2 or 3.

    Raises:
        InputError: if ITK is not installed.
        RuntimeError: if ITK cannot write the file.
    """
    load_itk(name)
    whole = itk_transform(transforms)
    itk_class("HDF5TransformIO", "Factory").RegisterOneFactory()
    writer = itk_class("TransformFileWriter", "TemplateD").New()
    writer.SetInput(whole)
    writer.SetFileName(str(path))
    writer.SetUseCompression(True)
    writer.Update()


def itk_transform(transforms: Sequence[ItkTransform]) -> Any:
    """ITK's object for one transform, or a composite of several, in double precision.

    Raises:
        ImportError: if ITK is not installed.
    """
    parts = [_to_itk(transform) for transform in transforms]
    if len(parts) == 1:
        return parts[0]
    whole = itk_class("CompositeTransform", f"D{transforms[0].dims}").New()
    for part in parts:
        whole.AddTransform(part)
    return whole


def _to_itk(transform: ItkTransform) -> Any:
    dims = transform.dims
    out = itk_class(transform.kind, f"D{dims}3" if transform.kind == "BSplineTransform" else f"D{dims}").New()
    out.SetFixedParameters(itk_parameters(transform.fixed))  # sets the grid of a field
    if transform.kind in FIELDS:
        itk_view(out.GetDisplacementField(), dims).ravel()[:] = transform.parameters
    else:
        out.SetParameters(itk_parameters(transform.parameters))
    return out


def itk_parameters(values: np.ndarray) -> Any:
    """Numbers as ITK's ``OptimizerParameters``."""
    out = itk_class("OptimizerParameters", "D")(len(values))
    for index, value in enumerate(values.tolist()):
        out[index] = value
    return out


def itk_view(image: Any, dims: int, kind: str = "D") -> np.ndarray:
    """View of the vectors of an image of doubles (``kind`` D) or floats (F), last axis first, components last."""
    return np.asarray(itk_class("PyBuffer", f"IV{kind}{dims}{dims}").GetArrayViewFromImage(image))
