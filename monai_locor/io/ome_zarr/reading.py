# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading of OME-Zarr images, as a whole or in boxes.

The physical coordinates x, y, z of the format are those of ITK, LPS: without an anatomical orientation in the metadata, x
runs from right to left, y from anterior to posterior and z from inferior to superior. Lengths are converted from the unit of
the axes to mm.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...errors import InputError, one_line
from ..lps import lps_signs
from ..stored_image import StoredImage, TimeAxis
from .multiscales import LENGTH_UNITS, Axis, find_level
from .stores import array_header, open_array

__all__ = ["MAX_WHOLE_BYTES", "OmeZarrImage", "is_ome_zarr", "ome_zarr_geometry", "read_ome_zarr"]

logger = logging.getLogger(__name__)

MAX_WHOLE_BYTES = 2**32  # of an image that is read as a whole, as float32
MARKERS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
TIME_UNITS = {"second": "sec", "millisecond": "msec", "microsecond": "usec", "s": "sec", "ms": "msec"}
# world axis and direction of anatomical orientations (RFC-4 of the format), RAS
ORIENTATIONS = {
    "left-to-right": (0, 1.0),
    "right-to-left": (0, -1.0),
    "posterior-to-anterior": (1, 1.0),
    "anterior-to-posterior": (1, -1.0),
    "inferior-to-superior": (2, 1.0),
    "superior-to-inferior": (2, -1.0),
}
AFFINE_TOLERANCE = 1e-4  # relative, of lengths


def is_ome_zarr(path: Path) -> bool:
    """Whether a path is a folder with Zarr metadata."""
    return path.is_dir() and any((path / marker).is_file() for marker in MARKERS)


def read_ome_zarr(path: Path, name: str) -> StoredImage:
    """Read an image; the voxels of a channel are read when it is selected.

    Args:
        path: folder of the image, for its first level, or of one of its levels.
        name: name of the image, for messages.

    Raises:
        InputError: see :class:`OmeZarrImage`.
    """
    image = OmeZarrImage(path, name)
    voxels = cast(np.ndarray, _LazyVoxels(image))
    return StoredImage(voxels, image.affine, image.channels, image.dtype.name, image.time)


def ome_zarr_geometry(path: Path, name: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Number of voxels along each spatial axis, and the affine, ``(4, 4)``, RAS mm, from the metadata."""
    image = OmeZarrImage(path, name)
    return image.shape, image.affine


class OmeZarrImage:
    """One level of an OME-Zarr image.

    Args:
        path: folder of the image, for its first level, or of one of its levels.
        name: name of the image, for messages.

    Attributes:
        shape: voxels along each of the two or three spatial axes, x first.
        affine: ``(4, 4)``, voxels to world, RAS mm.
        unit: unit of length of the file.
        count: number of channels and time points.
        channels: a name for each, empty if there is only one or none is given.
        time: time axis, if there is one and there are no channels.
        own: attributes written by this package.

    Raises:
        InputError: if the metadata are invalid, or of another version.
    """

    def __init__(self, path: Path, name: str) -> None:
        level = find_level(path, name)
        self.name, self.folder, self.own = name, level.folder, level.own
        header = array_header(level.folder, name)
        if len(header.shape) != len(level.axes):
            raise InputError(f"{name}: its array has {len(header.shape)} axes, its metadata {len(level.axes)}; check them")
        self.dtype = header.dtype.newbyteorder("=")
        kinds = [axis.kind for axis in level.axes]
        self.spatial = [k for k in reversed(range(len(kinds))) if kinds[k] == "space"]  # x first
        self.others = [k for k in range(len(kinds)) if kinds[k] != "space"]
        self.shape = tuple(header.shape[k] for k in self.spatial)
        self.chunks = tuple(header.chunks[k] for k in self.spatial)
        self.sizes = tuple(header.shape[k] for k in self.others)
        self.count = math.prod(self.sizes)
        axes = [level.axes[k] for k in self.spatial]
        self.unit = _unit(axes, name)
        self.affine = _affine(axes, name)
        if level.first:
            self.affine = _stored_affine(level.own, self.affine, self.shape)
        others = [level.axes[k] for k in self.others]
        self.channels = _channel_names(others, self.sizes, level.channels) if self.count > 1 else ()
        self.time = _time_axis(others[0]) if len(others) == 1 and self.count > 1 and others[0].kind == "time" else None

    @cached_property
    def array(self) -> Any:
        """The Zarr array, in the axes of the file."""
        return open_array(self.folder, self.name)

    def read(self, box: Sequence[slice], channel: int = 0) -> np.ndarray:
        """Read a box of a channel.

        Args:
            box: one slice per spatial axis, x first.
            channel: index of the channel or time point.

        Returns:
            ``(*box)``, in the type of the file.

        Raises:
            InputError: if it cannot be read.
        """
        index: list[Any] = [slice(None)] * (len(self.spatial) + len(self.others))
        for axis, part in zip(self.spatial, box, strict=True):
            index[axis] = part
        for axis, number in zip(self.others, np.unravel_index(channel, self.sizes) if self.sizes else (), strict=True):
            index[axis] = int(number)
        try:
            found = np.asarray(self.array[tuple(index)])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InputError(f"{self.name}: a chunk cannot be read ({one_line(error)}); is the file complete?") from error
        order = np.argsort(np.argsort(self.spatial))  # of the spatial axes that remain
        return found.astype(self.dtype, copy=False).transpose(*order)


class _LazyVoxels:
    """The voxels ``(*spatial, C)`` of an image, read when an array is needed."""

    def __init__(self, image: OmeZarrImage, chosen: range | None = None) -> None:
        self.image, self.chosen = image, range(image.count) if chosen is None else chosen
        self.shape, self.dtype = (*image.shape, len(self.chosen)), image.dtype
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[Any, slice]) -> _LazyVoxels:
        assert index[0] is Ellipsis
        return _LazyVoxels(self.image, self.chosen[index[1]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        image = self.image
        size = 4 * math.prod(self.shape)
        if size > MAX_WHOLE_BYTES:
            raise InputError(
                f"{image.name}: its {'x'.join(map(str, self.shape[:-1]))} voxels need {size / 2**30:.1f} GiB as a whole; "
                f"register it in blocks (--blocks), or name a coarser level, such as {image.folder.parent / '1'}"
            )
        whole = [slice(0, n) for n in image.shape]
        return np.stack([image.read(whole, k) for k in self.chosen], -1).astype(dtype or self.dtype, copy=False)


def _unit(axes: Sequence[Axis], name: str) -> str:
    """The unit of length of all spatial axes.

    Raises:
        InputError: if it is not a unit of length, or they differ.
    """
    units = {axis.unit for axis in axes}
    if units == {""}:
        logger.warning("%s: gives no unit of length; its lengths are taken to be in mm", name)
        return "millimeter"
    if len(units) > 1 or not units <= set(LENGTH_UNITS):
        raise InputError(f"{name}: its axes have the units {', '.join(sorted(units))}; one unit of length is needed")
    return units.pop()


def _affine(axes: Sequence[Axis], name: str) -> np.ndarray:
    """Affine from voxels to RAS mm, ``(4, 4)``, of axes in the order x, y, z."""
    names = [axis.name.lower() for axis in axes]
    rows = ["xyz".index(n) for n in names] if sorted(names) in (["x", "y"], ["x", "z"], ["y", "z"], ["x", "y", "z"]) else None
    placed = list(zip(range(3) if rows is None else rows, lps_signs(3) if rows is None else lps_signs(3)[rows], strict=False))
    oriented = [ORIENTATIONS.get(axis.orientation) for axis in axes]
    known = [found for found in oriented if found is not None]
    if len(known) == len(axes) and len({row for row, _ in known}) == len(axes):
        placed = known
    affine, free = np.zeros((4, 4)), set(range(3))
    for column, ((row, sign), axis) in enumerate(zip(placed, axes, strict=False)):
        scale = LENGTH_UNITS.get(axis.unit, 1.0)
        affine[row, column], affine[row, 3] = sign * axis.scale * scale, sign * axis.offset * scale
        free.discard(row)
    for column, row in zip(range(len(axes), 3), sorted(free), strict=True):
        affine[row, column] = 1.0
    affine[3, 3] = 1.0
    if not np.isfinite(affine).all():
        raise InputError(f"{name}: its scale or translation is too large; check its metadata")
    return affine


def _stored_affine(own: Any, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The affine of an image that this package wrote, which may be oblique, if it still belongs to the voxels."""
    try:
        stored = np.array(own["affine"], dtype=np.float64)
        fits = stored.shape == (4, 4) and np.isfinite(stored).all() and list(own["shape"]) == list(shape)
    except (KeyError, TypeError, ValueError):
        return affine
    count = len(shape)
    lengths, expected = (np.linalg.norm(m[:3, :count], axis=0) for m in (stored if fits else affine, affine))
    return stored if fits and np.allclose(lengths, expected, rtol=AFFINE_TOLERANCE) else affine


def _channel_names(axes: Sequence[Axis], sizes: Sequence[int], labels: Sequence[str]) -> tuple[str, ...]:
    """A name for each combination of channel and time."""
    parts = []
    for axis, size in zip(axes, sizes, strict=True):
        own = labels if axis.kind == "channel" and len(labels) == size else [f"{axis.kind} {k}" for k in range(size)]
        parts.append(own if size > 1 else [""])
    return tuple(", ".join(filter(None, names)) for names in itertools.islice(itertools.product(*parts), 2**16))


def _time_axis(axis: Axis) -> TimeAxis | None:
    return TimeAxis(axis.scale, TIME_UNITS.get(axis.unit, "unknown"), axis.offset)
