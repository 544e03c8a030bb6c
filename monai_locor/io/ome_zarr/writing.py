# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Writing of OME-Zarr images with one level, as a whole or in blocks.

The format has a scale and a translation only. The complete affine is added to the attributes of this package, and read again.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...geometry import Grid
from ..lps import lps_signs
from ..paths import expanded, write_json
from .multiscales import LENGTH_UNITS, OWN_KEY, VERSIONS
from .stores import open_array

__all__ = ["CHUNK_VOXELS", "NewImage", "create_ome_zarr", "fitting_unit", "write_ome_zarr"]

CHUNK_VOXELS = {2: 512, 3: 64}  # along each axis
MAX_MICROMETER_VOXEL_MM = 0.05  # larger voxels are written in mm
BLOSC = {"cname": "lz4", "clevel": 5, "blocksize": 0}


class NewImage:
    """An image that is being written.

    Args:
        folder: folder of the image.
        vectors: whether it has a channel axis, first in memory.
    """

    def __init__(self, folder: Path, vectors: bool) -> None:
        self.folder, self.vectors = folder, vectors

    @cached_property
    def array(self) -> Any:
        """The Zarr array, in the axes of the file."""
        return open_array(self.folder / "0", f"output file {self.folder}", "r+")

    def write(self, box: Sequence[slice], values: np.ndarray) -> None:
        """Write a box; boxes written at the same time must not share chunks.

        Args:
            box: one slice per spatial axis, x first.
            values: ``(*box)``, or ``(C, *box)`` for vectors.
        """
        index: tuple[slice, ...] = tuple(reversed(box))
        if self.vectors:
            index = (slice(None), *index)
            self.array[index] = values.transpose(0, *reversed(range(1, values.ndim)))
        else:
            self.array[index] = values.transpose()


def fitting_unit(grid: Grid) -> str:
    """The unit in which to write lengths: micrometers for voxels of at most 0.05 mm, else millimeters."""
    return "micrometer" if float(grid.spacing.max()) <= MAX_MICROMETER_VOXEL_MM else "millimeter"


def create_ome_zarr(
    folder: Path,
    grid: Grid,
    dtype: np.dtype,
    *,
    components: Sequence[str] = (),
    version: str = "0.4",
    unit: str | None = None,
    own: Mapping[str, Any] | None = None,
    name: str = "",
) -> NewImage:
    """Create an image of zeros, to be written in blocks. The folder appears when its metadata are complete.

    Args:
        folder: a new folder; its parents exist.
        grid: grid of the image.
        dtype: type of the values.
        components: names of the channels of a vector image, which become its first axis.
        version: of OME-Zarr, ``"0.4"`` (Zarr 2) or ``"0.5"`` (Zarr 3, needs Python 3.11).
        unit: name of the unit of length, by default :func:`fitting_unit`.
        own: further attributes of this package.
        name: name in the metadata, by default that of the folder; without ``.ome.zarr``.

    Raises:
        InputError: for another version, or if the folder exists.
    """
    if version not in VERSIONS:
        raise InputError(f"output file {folder}: OME-Zarr {version} is not written; choose {' or '.join(VERSIONS)}")
    if folder.exists():
        raise InputError(f"output file {folder}: already exists; name another, or add --force to overwrite it")
    unit = unit or fitting_unit(grid)
    shape = (*([len(components)] if components else []), *reversed(grid.shape))
    side = CHUNK_VOXELS[grid.dims]
    chunks = (*([len(components)] if components else []), *(min(side, n) for n in reversed(grid.shape)))
    group: dict[str, Any] = {"multiscales": [_multiscale(name or folder.name, grid, unit, bool(components))]}
    if components:
        group["omero"] = {"channels": [_rendering(label) for label in components]}
    ours = {"affine": grid.full_affine.tolist(), "shape": list(grid.shape), **(own or {})}
    with _new_folder(folder) as made:
        (made / "0").mkdir(parents=True)
        if version == "0.4":
            group["multiscales"][0]["version"] = version
            write_json(made / ".zgroup", {"zarr_format": 2})
            write_json(made / ".zattrs", {**group, OWN_KEY: ours})
            write_json(made / "0" / ".zarray", _array_2(shape, chunks, np.dtype(dtype)))
        else:
            attributes = {"ome": {"version": version, **group}, OWN_KEY: ours}
            write_json(made / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
            names = [axis["name"] for axis in group["multiscales"][0]["axes"]]
            write_json(made / "0" / "zarr.json", _array_3(shape, chunks, np.dtype(dtype), names))
    return NewImage(folder, bool(components))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary path beside a folder, which becomes the folder on success and is removed on failure."""
    temporary = folder.with_name(f".{secrets.token_hex(4)}-{folder.name}")
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_ome_zarr(
    path: str | os.PathLike[str],
    array: np.ndarray,
    grid: Grid,
    version: str = "0.4",
    channels: Sequence[str] = (),
    unit: str | None = None,
) -> None:
    """Write an image as a whole; the folder appears when it is complete.

    Args:
        path: folder, which must not exist; usually ends in ``.ome.zarr``.
        array: ``(C, *grid.shape)``; C = 1 has no channel axis in the file.
        grid: grid of the image.
        version, unit: see :func:`create_ome_zarr`.
        channels: names of the channels, by default their numbers.

    Raises:
        InputError: see :func:`create_ome_zarr`.
        ImportError: if ``zarr`` is not installed; the message names the extra.
    """
    target = expanded(path, f"output file {os.fspath(path)}")
    if target.exists():
        raise InputError(f"output file {target}: already exists; name another")
    names = list(channels) or [str(k) for k in range(len(array))]
    several = len(array) > 1
    with _new_folder(target) as temporary:
        options: dict[str, Any] = {"version": version, "unit": unit, "name": target.name}
        made = create_ome_zarr(temporary, grid, array.dtype, components=names * several, **options)
        made.write([slice(0, n) for n in grid.shape], array if several else array[0])


def _multiscale(name: str, grid: Grid, unit: str, vectors: bool) -> dict[str, Any]:
    """The metadata of a level; positions are those of LPS if the axes of the grid are those of the world, else approximate."""
    names = ("x", "y", "z")[: grid.dims]
    size = LENGTH_UNITS[unit]
    origin = lps_signs(grid.dims) * grid.affine[:-1, -1]
    transformations = [
        {"type": "scale", "scale": [1.0] * vectors + [float(v) / size for v in reversed(grid.spacing)]},
        {"type": "translation", "translation": [0.0] * vectors + [float(v) / size for v in reversed(origin)]},
    ]
    axes = [{"name": "c", "type": "channel"}] * vectors
    return {
        "name": name.removesuffix(".ome.zarr"),
        "axes": axes + [{"name": name, "type": "space", "unit": unit} for name in reversed(names)],
        "datasets": [{"path": "0", "coordinateTransformations": transformations}],
    }


def _rendering(label: str) -> dict[str, Any]:
    """Metadata of a channel, with what version 0.4 requires of a renderer."""
    window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
    return {"label": label, "color": "FFFFFF", "active": True, "window": window}


def _array_2(shape: Sequence[int], chunks: Sequence[int], dtype: np.dtype) -> dict[str, Any]:
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": dtype.newbyteorder("<").str,
        "compressor": {"id": "blosc", "shuffle": 1, **BLOSC},
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


def _array_3(shape: Sequence[int], chunks: Sequence[int], dtype: np.dtype, names: Sequence[str]) -> dict[str, Any]:
    compression = {"typesize": dtype.itemsize, "shuffle": "shuffle", **BLOSC}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": compression},
        ],
        "attributes": {},
        "dimension_names": list(names),
    }
