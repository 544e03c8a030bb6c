# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Displacement fields in OME-Zarr, as blockwise registration writes them, read as a whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry import Grid, SpatialTransform
from ..lps import lps_signs
from ..ome_zarr import OmeZarrImage
from ..ome_zarr.multiscales import LENGTH_UNITS
from ..paths import ZARR_FORWARD, ZARR_INVERSE

__all__ = ["FIELD_KIND", "read_zarr_field", "read_zarr_folder"]

FIELD_KIND = "displacement field"  # attribute that marks the channels as vectors
MAX_FIELD_BYTES = 2**34  # of a field that is read as a whole


def read_zarr_field(path: Path, name: str) -> SpatialTransform:
    """Read a field, LPS in the unit of its axes.

    Raises:
        InputError: if the image is not a displacement field of this package, or too large.
    """
    file = OmeZarrImage(path, name)
    dims = len(file.shape)
    if file.own.get("kind") != FIELD_KIND or file.count != dims:
        raise InputError(f"{name}: is an OME-Zarr image, not a displacement field of a blockwise registration")
    size = 4 * dims * math.prod(file.shape)
    if size > MAX_FIELD_BYTES:
        raise InputError(f"{name}: needs {size / 2**30:.0f} GiB as a whole, more than {MAX_FIELD_BYTES // 2**30}; crop it")
    values = np.stack([file.read([slice(0, n) for n in file.shape], k) for k in range(dims)])
    scale = lps_signs(dims) * LENGTH_UNITS[file.unit]
    grid = Grid.placed(file.shape, file.affine)
    return SpatialTransform.of_field((values * scale.reshape(-1, *[1] * dims)).astype(np.float32), grid)


def read_zarr_folder(folder: Path) -> SpatialTransform:
    """Read the transform of an output folder, with its inverse if it is there."""
    forward = read_zarr_field(folder / ZARR_FORWARD, f"transform {folder / ZARR_FORWARD}")
    if not (folder / ZARR_INVERSE).is_dir():
        return forward
    inverse = read_zarr_field(folder / ZARR_INVERSE, f"transform {folder / ZARR_INVERSE}")
    return SpatialTransform(forward.steps, inverse.steps)
