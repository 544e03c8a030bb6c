# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The file of an error map: an image of three channels."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch

from ..errors import InputError
from ..geometry import Grid
from ..io import write_image
from ..io.image_source import load_source
from ..quality.error_map import ERROR_CHANNELS, ErrorMap

__all__ = ["ERROR_FILE", "read_error_map", "write_error_map"]

ERROR_FILE = "error.nii.gz"  # in an output folder


def write_error_map(path: str | PathLike[str], error: ErrorMap) -> list[Path]:
    """Write an error map on the fixed grid, NaN where not determined.

    The channels are the expected error, the lower and the upper bound, mm. NIfTI has them as the last axis, ``(X, Y, Z, 3)``
    or ``(X, Y, 1, 3)``.

    Raises:
        InputError: if the file cannot be written, or its format has no channels.
    """
    write_image(path, error.channels(), error.grid)
    return [Path(path).expanduser()]


def read_error_map(path: str | PathLike[str], grid: Grid | None = None) -> ErrorMap:
    """Read a file of :func:`write_error_map`.

    Args:
        path: the file.
        grid: grid of the fixed image, if it is known with more digits than the file has.

    Raises:
        InputError: if it cannot be read, has another number of channels, or has another shape than the grid.
    """
    name, image = load_source(path, "error map", "all")
    if len(image) != len(ERROR_CHANNELS):
        raise InputError(f"{name}: has {len(image)} channels; an error map has three, {', '.join(ERROR_CHANNELS)}")
    found = Grid.of(image)
    if grid is not None and grid.shape != found.shape:
        raise InputError(f"{name}: has shape {found.shape}, the fixed image {grid.shape}; give the map of this pair")
    values: torch.Tensor = image.as_tensor()
    return ErrorMap.of_channels(values, found if grid is None else grid)
