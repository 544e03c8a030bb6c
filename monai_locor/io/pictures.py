# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pictures: PNG, JPEG, TIFF and BMP files of one plane, such as photographs of stained sections.

Pixels are numbered from the upper left corner: x to the right, y down. They lie in the LPS x-y plane of the world, with the
center of the first pixel at the origin. The length of a pixel is 1 mm, so that lengths are in pixels, unless the file gives a
resolution of at least 1000 pixels per inch, as microscopes write it; lower ones are those of screens and printers.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import Grid, full_affine
from .itk_images import itk_geometry, read_itk
from .itk_library import load_itk
from .lps import affine_of_itk, geometry_for_itk
from .paths import atomic_path
from .stored_image import StoredImage

__all__ = [
    "MAX_PIXELS",
    "background_of",
    "block_means",
    "for_registration",
    "picture_geometry",
    "read_picture",
    "write_picture",
]

logger = logging.getLogger(__name__)

MAX_PIXELS = 2**20  # of the image that is registered
MAX_MICROSCOPE_PIXEL_MM = 0.0254  # 1000 pixels per inch
MIN_BRIGHT_BACKGROUND = 0.75  # relative to the brightest pixels
LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
SLAB_PIXELS = 2**20  # converted at a time
COLOR_NAMES = ("red", "green", "blue")


def read_picture(path: Path, name: str) -> StoredImage:
    """Read a picture in its colors, ``(X, Y, C)``, C = 1 or 3; other images with these suffixes, e.g. stacks, as they are.

    Palettes become colors. Transparent pixels of RGBA are blended over white, as viewers show them.

    Raises:
        InputError: see :func:`.itk_images.read_itk`.
    """
    stored = read_itk(path, name)
    if len(stored.shape) != 2:
        return stored
    stored = dataclasses.replace(stored, affine=_placed(stored.affine))
    if stored.voxels.shape[-1] != 4 or stored.voxels.dtype.kind != "u":
        return stored
    return dataclasses.replace(stored, voxels=_opaque(stored.voxels), channels=COLOR_NAMES)


def picture_geometry(path: Path, name: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Number of pixels along x and y, and the affine, ``(4, 4)``, RAS mm, from the header."""
    shape, affine = itk_geometry(path, name)
    return shape, _placed(affine) if len(shape) == 2 else affine


def _placed(affine: np.ndarray) -> np.ndarray:
    """The affine of a picture with the pixel size of its file if that is physical, else with pixels of 1 mm."""
    size = np.linalg.norm(affine[:2, :2], axis=0)
    size = size if (size <= MAX_MICROSCOPE_PIXEL_MM).all() else np.ones(2)
    return full_affine(affine_of_itk(np.eye(2), size, np.zeros(2)))


def _opaque(voxels: np.ndarray) -> np.ndarray:
    """Blend ``(X, Y, 4)`` over white."""
    white = np.iinfo(voxels.dtype).max
    if voxels[..., 3].min() == white:
        return voxels[..., :3]
    rows = np.empty((voxels.shape[1], voxels.shape[0], 3), voxels.dtype)  # in the order of the file
    for slab in _slabs(voxels):
        part = voxels[:, slab].astype(np.float32)
        blended = white + (part[..., :3] - white) * (part[..., 3:] / white)
        rows[slab] = np.rint(blended).swapaxes(0, 1)
    return rows.swapaxes(0, 1)


def _slabs(voxels: np.ndarray, multiple: int = 1) -> list[slice]:
    """Slices of the second axis with about ``SLAB_PIXELS`` pixels each, in multiples of a number of rows."""
    rows = max(1, SLAB_PIXELS // (voxels.shape[0] * multiple)) * multiple
    return [slice(start, min(start + rows, voxels.shape[1])) for start in range(0, voxels.shape[1], rows)]


def for_registration(stored: StoredImage, name: str, intensity: bool = True, max_pixels: int = MAX_PIXELS) -> StoredImage:
    """Reduce a picture to a size that can be registered, and its colors to one intensity that is zero in the background.

    A picture with more than ``max_pixels`` pixels is averaged over blocks of n x n pixels, with the smallest n that suffices.
    If the border is bright, as of stained sections, the intensity is the optical density (Beer and Lambert) relative to the
    border, ``log10(white / value)``, which is proportional to the amount of a stain; the densities of red, green and blue are
    projected onto their principal direction, the color of the strongest stain. Other color pictures are reduced to their
    luminance; other gray pictures keep their values.

    Args:
        stored: ``(X, Y, C)``; images with three axes are returned unchanged.
        name: name of the image, for messages.
        intensity: whether to compute the intensity, of pictures with C = 1 or 3; otherwise all channels are kept.
        max_pixels: number of pixels that the result may have.
    """
    if len(stored.shape) != 2:
        return stored
    block = 1
    while np.prod(-(-np.array(stored.shape) // block)) > max_pixels:
        block += 1
    if block > 1:
        logger.info("%s: averaged over blocks of %d x %d pixels for registration", name, block, block)
    values = block_means(stored.voxels, block)
    to_first = np.diag([block, block, 1.0, 1.0])
    to_first[:2, 3] = (block - 1) / 2
    reduced = dataclasses.replace(stored, voxels=values, affine=stored.affine @ to_first)
    if not intensity or values.shape[-1] not in (1, 3):
        return reduced
    return dataclasses.replace(reduced, voxels=_intensity(values), channels=())


def _intensity(values: np.ndarray) -> np.ndarray:
    """One intensity per pixel, ``(X, Y, 1)`` float32, of ``(X, Y, C)`` float32."""
    white, top = background_of(values), float(values.max())
    if not top > 0 or white.mean() < MIN_BRIGHT_BACKGROUND * top:
        return values if values.shape[-1] == 1 else (values @ np.array(LUMINANCE, np.float32))[..., None]
    floor = white / 2**10  # for black pixels
    density = np.log10(white / np.maximum(values, floor)).clip(0, None)
    flat = density.reshape(-1, density.shape[-1]).astype(np.float64)
    direction = np.abs(np.linalg.eigh(flat.T @ flat)[1][:, -1])  # of one sign, since densities are not negative
    return (density @ direction.astype(np.float32))[..., None]


def background_of(voxels: np.ndarray) -> np.ndarray:
    """The value of the background of ``(X, Y, C)``: the median of the outermost pixels, ``(C,)`` float32."""
    border = [voxels[0], voxels[-1], voxels[:, 0], voxels[:, -1]]
    return np.median(np.concatenate(border), axis=0).astype(np.float32)


def block_means(voxels: np.ndarray, block: int) -> np.ndarray:
    """Average ``(X, Y, C)`` over blocks of ``block`` x ``block`` pixels, in slabs; ``(ceil(X / block), ..., C)`` float32.

    Blocks at the end of an axis average the pixels that exist.
    """
    if block == 1:
        return voxels.astype(np.float32)
    count = [-(-n // block) for n in voxels.shape[:2]]
    out = np.empty((*count, voxels.shape[-1]), np.float32)
    sizes = [np.minimum(block, n - block * np.arange(m)) for n, m in zip(voxels.shape, count)]
    for slab in _slabs(voxels, block):
        sums = np.add.reduceat(voxels[:, slab].astype(np.float32), np.arange(0, slab.stop - slab.start, block), axis=1)
        sums = np.add.reduceat(sums, np.arange(0, len(voxels), block), axis=0)
        first = slab.start // block
        rows = slice(first, first + sums.shape[1])
        out[:, rows] = sums / (sizes[0][:, None] * sizes[1][rows])[..., None]
    return out


STORED_TYPES = {".jpg": ("uint8",), ".jpeg": ("uint8",), ".bmp": ("uint8",), ".png": ("uint8", "uint16")}
TIFF_TYPES = ("uint8", "uint16", "float32")


def write_picture(path: str | os.PathLike[str], array: np.ndarray, grid: Grid) -> None:
    """Write a picture atomically with ITK; TIFF is compressed without loss and holds the pixel size.

    Args:
        path: must end in one of :data:`.paths.PICTURE_SUFFIXES`.
        array: ``(C, X, Y)``, C = 1 or 3, of a type of the format.
        grid: grid of a picture, see the module: other positions cannot be stored.

    Raises:
        InputError: if the format cannot store the values or the position, or ITK is not installed.
    """
    name, suffix = f"output file {os.fspath(path)}", Path(path).suffix.lower()
    allowed = STORED_TYPES.get(suffix, TIFF_TYPES)
    if len(array) not in (1, 3) or array.ndim != 3:
        raise InputError(f"{name}: {len(array)} channels of {array.ndim - 1} axes are no picture; write .nii.gz")
    if array.dtype.name not in allowed:
        raise InputError(f"{name}: values of type {array.dtype} cannot be stored, only {', '.join(allowed)}; write .nii.gz")
    direction, spacing, origin = geometry_for_itk(grid)
    if grid.plane is not None or not np.allclose(direction, np.eye(2)) or not np.allclose(origin, 0, atol=1e-3 * min(spacing)):
        raise InputError(f"{name}: a picture cannot store the position of its grid; write .nii.gz, or name a picture with -r")
    itk = load_itk(name)
    rows = np.ascontiguousarray(array.transpose(2, 1, 0))
    image = itk.image_from_array(rows if len(array) > 1 else rows[..., 0], is_vector=len(array) > 1)
    image.SetSpacing(spacing)
    with atomic_path(path) as temporary:
        options = {"imageio": _deflating(itk)} if suffix in (".tif", ".tiff") else {}
        itk.imwrite(image, str(temporary), compression=True, **options)


def _deflating(itk: Any) -> Any:
    """A writer of TIFF with Deflate, which compresses photographs, unlike ITK's default."""
    writer = itk.TIFFImageIO.New()
    writer.SetCompressor("Deflate")
    return writer
