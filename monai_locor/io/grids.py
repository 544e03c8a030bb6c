# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Grids of images and image files. Files are read without torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, one_line
from ..geometry import Grid
from .image_files import read_geometry
from .paths import expanded

if TYPE_CHECKING:
    from .image_source import ImageSource

__all__ = ["as_grid", "grid_of_stored", "read_grid"]


def read_grid(source: ImageSource, what: str = "reference image") -> Grid:
    """Read the grid of an image; for NIfTI and most other formats only the header is read.

    A NIfTI displacement field can also be given. Trailing axes of one voxel are dropped as in
    :func:`monai_locor.io.read_image`.

    Args:
        source: a file, or an image in memory ``(C, *spatial)``.
        what: role of the image, for messages.

    Raises:
        InputError: if it cannot be read or has no valid geometry.
    """
    if not isinstance(source, (str, os.PathLike)):
        from .image_source import load_source

        return Grid.of(load_source(source, what, "all")[1])
    name = f"{what} {os.fspath(source)}"
    return grid_of_stored(*read_geometry(expanded(source, name), name), name)


def as_grid(given: Grid | ImageSource | None, what: str) -> Grid | None:
    """Return a grid unchanged, or the grid of an image (:func:`read_grid`); None stays None."""
    return given if given is None or isinstance(given, Grid) else read_grid(given, what)


def grid_of_stored(shape: tuple[int, ...], affine: np.ndarray, name: str) -> Grid:
    """The grid of an image stored in a file, without trailing axes of one voxel.

    Args:
        shape: number of voxels along each spatial axis.
        affine: ``(4, 4)``, RAS mm.
        name: name of the image for messages.

    Raises:
        InputError: if it has fewer than two axes or an invalid affine.
    """
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"{name}: has no usable geometry (its shape is {shape}); give an image with two or three axes")
    try:
        return Grid.placed(shape, affine)
    except ValueError as error:
        raise InputError(f"{name}: has no usable geometry ({one_line(error)}); give another image") from error
