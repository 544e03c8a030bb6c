# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""X5, the BIDS transform format (a draft): HDF5 with a list of transforms and chains of them, RAS mm.

A chain such as ``0/1`` maps points of the reference (fixed) image by transform 0, then by transform 1. Written and read are
affine matrices and dense fields, as by nitransforms.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..._version import __version__
from ...errors import InputError
from ...geometry import AffineStep, FieldStep, Grid, SpatialTransform, Step
from ..hdf5_check import open_hdf5
from ..paths import atomic_path
from ..sizes import check_stated_size
from .base import homogeneous, invalid

__all__ = ["check_h5py", "is_x5", "read_x5", "write_x5"]

SUFFIX = ".x5"
READABLE = ("displacements", "deformations")


def is_x5(path: Path) -> bool:
    """Whether an HDF5 file states that it is X5; without h5py, by its suffix."""
    if find_spec("h5py") is None:
        return path.suffix.lower() == SUFFIX
    try:
        with open_hdf5(path) as file:
            return _text(file.attrs.get("Format")) == "X5"
    except Exception:  # damaged, for which h5py raises various types, or no HDF5
        return False


def read_x5(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read the only chain of a file, or its only transform."""
    check_h5py(name)
    with invalid(name, "is it a complete X5 file?"), open_hdf5(path) as file:
        if _text(file.attrs.get("Format")) != "X5":
            raise InputError(f"{name}: is no X5 file; name its format with --from")
        group = file["TransformGroup"]
        values = [part["Transform"] for part in group.values()]
        check_stated_size(path, sum(int(each.nbytes) for each in values), complete=True)
        return SpatialTransform(tuple(_step(group[index], name) for index in _order(file, name)))


def check_h5py(name: str) -> None:
    """Check that X5 files can be read and written.

    Args:
        name: of the file, for the message.

    Raises:
        InputError: if h5py is missing.
    """
    if find_spec("h5py") is None:
        raise InputError(f"{name}: X5 files need h5py, which is not installed; pip install 'monai-locor[formats]'")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _order(file: Any, name: str) -> list[str]:
    """Names of the transforms in the order in which points are mapped."""
    chains, transforms = file.get("TransformChain", {}), file["TransformGroup"]
    if len(chains) > 1 or (not len(chains) and len(transforms) != 1):
        what = f"{len(chains)} chains" if len(chains) else f"{len(transforms)} transforms without a chain"
        raise InputError(f"{name}: holds {what}; write the one that you need to a file of its own")
    return _text(next(iter(chains.values()))[()]).split("/") if len(chains) else list(transforms)


def _step(part: Any, name: str) -> Step:
    kind, length = _text(part.attrs["Type"]), int(part.attrs.get("ArrayLength", 1))
    if length != 1:
        raise InputError(f"{name}: holds a series of {length} transforms; give a file with one")
    values = np.asarray(part["Transform"])
    if kind == "linear":
        return AffineStep(homogeneous(values.reshape(values.shape[-2:]).astype(np.float64), name))
    representation = _text(part.attrs.get("Representation"))
    if kind != "nonlinear" or representation not in READABLE:
        raise InputError(f"{name}: holds a {kind} transform of {representation}; convert it to a dense field first")
    shape = tuple(int(count) for count in np.asarray(part["Domain"]["Size"]))
    grid = Grid(shape, np.asarray(part["Domain"]["Mapping"], dtype=np.float64))
    if values.shape != (*shape, len(shape)):
        raise InputError(f"{name}: its field has the shape {values.shape}, its grid {shape}; compute it again")
    vectors = values - grid.points() if representation == "deformations" else values
    return FieldStep(np.ascontiguousarray(np.moveaxis(vectors, -1, 0), dtype=np.float32), grid)


def write_x5(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write each step as a transform, and their order as a chain; splines become fields on the fixed grid."""
    check_h5py(name)
    import h5py

    steps = transform.steps
    if not all(isinstance(step, (AffineStep, FieldStep)) for step in steps):
        grid = fixed or transform.domain
        assert grid is not None  # a spline has a domain
        steps = transform.split(grid).steps
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["Format"], file.attrs["Version"] = "X5", np.uint16(1)
        group = file.create_group("TransformGroup")
        for index, step in enumerate(steps):
            _write_step(group.create_group(str(index)), step, fixed)
        order = "/".join(str(index) for index in range(len(steps)))
        file.create_group("TransformChain").create_dataset("0", data=order)
    return [path]


def _write_step(part: Any, step: Step, fixed: Grid | None) -> None:
    part.attrs["ArrayLength"] = 1
    part.attrs["Metadata"] = json.dumps({"WrittenBy": f"monai-locor {__version__}"})
    part.create_dataset("DimensionKinds", data=np.asarray(["space"] * step.dims + ["vector"], dtype="S"))
    if isinstance(step, AffineStep):
        kinds, values, grid = ("linear", "affine", "matrix"), step.matrix, fixed
    else:
        assert isinstance(step, FieldStep)
        kinds, values, grid = ("nonlinear", "densefield", "displacements"), np.moveaxis(step.array, 0, -1), step.grid
    for key, kind in zip(("Type", "SubType", "Representation"), kinds, strict=True):
        part.attrs[key] = kind
    part.create_dataset("Transform", data=np.ascontiguousarray(values))
    if grid is not None:
        domain = part.create_group("Domain")
        domain.attrs["Coordinates"] = "cartesian"
        content = {"Grid": np.uint8(1), "Size": np.asarray(grid.shape), "Mapping": grid.affine}
        for key, value in content.items():
            domain.create_dataset(key, data=value)
