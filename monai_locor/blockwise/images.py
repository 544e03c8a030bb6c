# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Image files that are read in parts: OME-Zarr and uncompressed NIfTI."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import Grid
from ..io.grids import grid_of_stored
from ..io.nifti import load_nifti, nifti_affine, warn_about_header
from ..io.ome_zarr import OmeZarrImage, is_ome_zarr
from ..io.stored_image import channel_index
from .tiling import Box, boxes

__all__ = ["BlockImage", "block_means", "weights_of"]

logger = logging.getLogger(__name__)

BOX_VOXELS = {2: 2048, 3: 128}  # along each axis of the boxes that are read at a time


class BlockImage:
    """An image file that is read box by box.

    Args:
        path: folder of an OME-Zarr image or of one of its levels, or an uncompressed NIfTI file.
        role: role of the image, for messages, e.g. ``"fixed image"``.
        channel: index of the channel, frame or time point.
        quiet: do not warn about the header.

    Attributes:
        grid: grid of the image.
        dtype: type of the voxels as returned.
        chunks: voxels along each axis that are stored together.
        unit: unit of length of an OME-Zarr image, or None.

    Raises:
        InputError: if it is another file, or has several channels and none is chosen.
    """

    def __init__(self, path: str | PathLike[str], role: str, channel: int | None = None, quiet: bool = False) -> None:
        self.path = Path(path).expanduser()
        self.name = f"{role} {self.path}"
        self.unit: str | None = None
        if is_ome_zarr(self.path):
            shape, affine = self._open_zarr(channel)
        elif self.path.name.lower().endswith(".nii") and self.path.is_file():
            shape, affine = self._open_nifti(channel, quiet)
        elif not self.path.exists():
            raise InputError(f"{self.name}: no such file; check its path")
        else:
            raise InputError(f"{self.name}: it cannot be read in parts; give OME-Zarr or an uncompressed NIfTI file (.nii)")
        self.grid: Grid = grid_of_stored(shape, affine, self.name)
        self.dropped = len(shape) - self.grid.dims  # trailing axes of one voxel

    def _open_zarr(self, channel: int | None) -> tuple[tuple[int, ...], np.ndarray]:
        image = OmeZarrImage(self.path, self.name)
        index = channel_index(image.count, channel, image.shape, self.name, image.channels)
        self.dtype, self.chunks, self.unit = image.dtype, image.chunks, image.unit
        self._read: Any = lambda box: image.read(box, index)
        return image.shape, image.affine

    def _open_nifti(self, channel: int | None, quiet: bool) -> tuple[tuple[int, ...], np.ndarray]:
        image = load_nifti(self.path)
        shape = tuple(image.shape[:3])
        index = channel_index(int(np.prod(image.shape[3:])), channel, shape, self.name)
        others = tuple(int(k) for k in np.unravel_index(index, image.shape[3:])) if image.ndim > 3 else ()
        if not quiet:
            warn_about_header(image, self.name)
        stored: Any = image.dataobj
        plain = (stored.slope, stored.inter) == (1, 0)
        self.dtype = np.dtype(stored.dtype.newbyteorder("=") if plain else np.float32)
        self.chunks = (*shape[:-1], 1) if len(shape) > 2 else shape
        if self.dtype.kind not in "biuf":
            raise InputError(f"{self.name}: its voxels are of type {self.dtype}; only integers and real numbers are read")
        self._read = lambda box: np.asarray(stored[tuple([*box, *others])], dtype=self.dtype)
        return shape, nifti_affine(image)

    def read(self, box: Sequence[slice]) -> np.ndarray:
        """Read a box, ``(*box)``.

        Raises:
            InputError: if it cannot be read.
        """
        found = self._read((*box, *[slice(0, 1)] * self.dropped))
        return found.reshape(found.shape[: self.grid.dims])

    def signature(self) -> str:
        """A text that changes when the file is replaced: its size and date, or the hash of the metadata of OME-Zarr."""
        if self.path.is_file():
            stat = self.path.stat()
            return f"{stat.st_size} {stat.st_mtime_ns}"
        digest = hashlib.sha256()
        for name in ("zarr.json", ".zattrs", ".zarray"):
            if (self.path / name).is_file():
                digest.update((self.path / name).read_bytes())
        return digest.hexdigest()

    def boxes(self, multiple: int = 1) -> list[Box]:
        """Boxes that cover the image, of whole chunks where they are small, and of a multiple of some number of voxels."""
        most = BOX_VOXELS[self.grid.dims]
        sides = []
        for n, chunk in zip(self.grid.shape, self.chunks, strict=False):
            side = chunk * max(1, most // chunk) if chunk <= most else most
            sides.append(min(-(-side // multiple) * multiple, -(-n // multiple) * multiple))
        return boxes(self.grid.shape, sides)


def weights_of(values: np.ndarray) -> np.ndarray:
    """The weights of the voxels of a mask, float32 in [0, 1]: real numbers are clipped; other numbers count as 1 above 0."""
    return (np.clip(values, 0, 1) if values.dtype.kind == "f" else values > 0).astype(np.float32)


def block_means(image: BlockImage, factors: Sequence[int], is_mask: bool = False) -> tuple[np.ndarray, Grid, float]:
    """Average an image over blocks, reading it box by box; blocks at the end of an axis average the voxels that exist.

    Args:
        image: the image.
        factors: voxels of a block along each axis.
        is_mask: average the :func:`weights_of` the voxels.

    Returns:
        the means, float32; their grid; and the smallest finite voxel.
    """
    shape = tuple(-(-n // f) for n, f in zip(image.grid.shape, factors, strict=True))
    out, lowest = np.empty(shape, np.float32), np.inf
    for box in image.boxes(int(np.lcm.reduce(factors))):
        stored = image.read(box)
        values = weights_of(stored) if is_mask else stored.astype(np.float32)
        finite = values[np.isfinite(values)]
        lowest = min(lowest, float(finite.min())) if finite.size else lowest
        target = tuple(slice(b.start // f, -(-b.stop // f)) for b, f in zip(box, factors, strict=True))
        out[target] = _means(values, factors)
    to_first = np.diag([*map(float, factors), 1.0])
    to_first[:-1, -1] = (np.array(factors) - 1) / 2
    grid = Grid(shape, image.grid.affine @ to_first, image.grid.plane)
    return out, grid, lowest if np.isfinite(lowest) else 0.0


def _means(values: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    for axis, f in enumerate(factors):
        n = values.shape[axis]
        starts = np.arange(0, n, f)
        counts = np.minimum(f, n - starts).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        values = np.add.reduceat(values, starts, axis=axis) / counts.astype(np.float32)
    return values
