# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A small picture of a registration, for tables of many."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...io.paths import atomic_path
from ..pictures.contours import bright_center, contour_levels, smoothed_outline
from ..pictures.planes import planes_through, upright, window
from .images import View

if TYPE_CHECKING:
    from ...registration.result import RegistrationResult

__all__ = ["thumbnail", "write_thumbnail"]

MAX_PIXELS = 72  # along the longer side of each of the two images
JPEG_QUALITY = 80
OUTLINE_COLOR = (255, 176, 0)
GAP_PIXELS = 2


def thumbnail(result: RegistrationResult) -> np.ndarray:
    """The fixed image and, beside it, the warped image, both with outlines of the fixed one, in the axial plane.

    Args:
        result: registration result that holds its images.

    Returns:
        ``(height, width, 3)``, uint8.
    """
    pairs = [upright(result.held(name)[:1], result.fixed_grid) for name in ("fixed_image", "warped_moving")]
    grid = pairs[0][1]
    fixed, warped = (window(volume[0]) for volume, _ in pairs)
    plane = planes_through(grid, bright_center(fixed))[0]
    extent = [float(grid.extent[axis]) for axis in (plane.across, plane.up)]
    width, height = (max(1, round(MAX_PIXELS * side / max(extent))) for side in extent)
    view = View("axial", plane, (width, height), max(extent) / MAX_PIXELS)
    outline = view.picture(smoothed_outline(fixed, grid))
    edges = np.zeros(outline.shape, dtype=bool)
    for level in contour_levels(outline):
        inside = np.pad(outline > level, 1, mode="edge")
        near = [inside[:-2, 1:-1], inside[2:, 1:-1], inside[1:-1, :-2], inside[1:-1, 2:]]
        edges |= inside[1:-1, 1:-1] & ~np.logical_and.reduce(near)
    gap = np.full((height, GAP_PIXELS, 3), 255, dtype=np.uint8)
    panels = [_outlined(view.picture(volume), edges) for volume in (fixed, warped)]
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _outlined(picture: np.ndarray, edges: np.ndarray) -> np.ndarray:
    values = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    colored = np.repeat(values[..., None], 3, axis=-1)
    colored[edges] = OUTLINE_COLOR
    return colored


def write_thumbnail(path: str | PathLike[str], result: RegistrationResult) -> Path:
    """Write :func:`thumbnail` as a JPEG file of a few kilobytes.

    Args:
        path: file to write; its folder must exist.
        result: registration result that holds its images.

    Raises:
        ImportError: if Pillow, which comes with matplotlib, is not installed.
    """
    from PIL import Image

    target = Path(path).expanduser()
    with atomic_path(target) as temporary:
        Image.fromarray(thumbnail(result)).save(temporary, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return target
