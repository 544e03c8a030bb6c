# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Planes through volumes as data URIs and SVG paths: images, contours, color maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...geometry import Grid
from ..pictures.contours import contour_levels
from ..pictures.planes import Plane, deformed_lines, planes_through

__all__ = ["View", "colors", "contour_path", "data_uri", "views_of"]

MAX_PIXELS = 400  # along the longer side of a picture
JPEG_QUALITY = 82
MIN_CONTOUR_POINTS = 10  # shorter contours are noise
PLANE_NAMES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class View:
    """A plane through an upright volume as a picture.

    Attributes:
        name: ``"axial"``, ``"coronal"``, ``"sagittal"``, or ``"image"`` in two dimensions.
        plane: see :class:`monai_locor.report.pictures.planes.Plane`.
        size: width and height in pixels.
        pixel: side of a pixel, mm.
    """

    name: str
    plane: Plane
    size: tuple[int, int]
    pixel: float

    def picture(self, volume: np.ndarray) -> np.ndarray:
        """The plane of a volume ``(*shape)`` with square pixels, ``(height, width)``."""
        flat = torch.from_numpy(np.ascontiguousarray(self.plane.cut(volume))).float()[None, None]
        return F.interpolate(flat, self.size[::-1], mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()

    def pixel_of(self, voxel: np.ndarray, shape: Sequence[int]) -> tuple[float, float]:
        """The position in pixels from the top left of a voxel, ``(D,)``, of an upright volume of this shape."""
        x, y = (
            (shape[axis] - 0.5 - float(voxel[axis])) * size / shape[axis]
            for axis, size in zip((self.plane.across, self.plane.up), self.size, strict=True)
        )
        return x, y

    def contours(self, volume: np.ndarray, levels: Sequence[float] | None = None) -> str:
        """SVG path of the contours of the plane.

        Args:
            volume: ``(*shape)``.
            levels: by default :func:`monai_locor.report.pictures.contours.contour_levels` of the plane.
        """
        picture = self.picture(volume)
        return contour_path(picture, contour_levels(picture) if levels is None else levels)

    def grid_lines(self, displacement_mm: torch.Tensor, grid: Grid) -> list[str]:
        """SVG paths, in pixels, of the deformed grid of the plane; ``grid`` is upright."""
        height = float(grid.extent[self.plane.up])
        half = np.array(self.plane.step) / 2
        lines = deformed_lines(displacement_mm, grid, self.plane, float(grid.extent.max()) / 30)
        paths = []
        for line in lines:
            x, y = ((line + half) * (1, -1) + (0, height)).T / self.pixel
            paths.append(_path(np.stack([x, y], 1)))
        return paths


def views_of(grid: Grid, center: Sequence[int]) -> list[View]:
    """Axial, coronal and sagittal view of an upright volume.

    Args:
        grid: of the volume.
        center: voxel that the planes go through.
    """
    views = []
    for number, plane in enumerate(planes_through(grid, center)):
        extent = grid.extent[plane.across], grid.extent[plane.up]
        pixel = max(min(plane.step), float(max(extent)) / MAX_PIXELS)
        size = max(1, round(float(extent[0]) / pixel)), max(1, round(float(extent[1]) / pixel))
        views.append(View("image" if plane.index is None else PLANE_NAMES[number], plane, size, pixel))
    return views


def data_uri(picture: np.ndarray, exact: bool = False) -> str:
    """A picture as a data URI.

    Args:
        picture: ``(height, width)`` or ``(height, width, 3)``, in [0, 1]; or uint8.
        exact: lossless PNG instead of JPEG.
    """
    from PIL import Image  # comes with matplotlib

    buffer = io.BytesIO()
    values = picture if picture.dtype == np.uint8 else np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    kind, options = ("PNG", {}) if exact else ("JPEG", {"quality": JPEG_QUALITY})
    Image.fromarray(values).save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def colors(values: np.ndarray, low: float, high: float, name: str) -> np.ndarray:
    """Map ``(*shape)`` to ``(*shape, 3)`` by a matplotlib color map; dark where a value is not finite."""
    from matplotlib import colormaps

    mapped = np.asarray(colormaps[name](np.clip((values - low) / max(high - low, 1e-12), 0, 1)))[..., :3]
    mapped[~np.isfinite(values)] = 0.09
    return mapped


def contour_path(picture: np.ndarray, levels: Sequence[float]) -> str:
    """SVG path of the contours of a picture ``(height, width)``, which ends where the picture is NaN."""
    from contourpy import contour_generator  # comes with matplotlib

    if not levels or min(picture.shape) < 2:
        return ""
    found: Any = contour_generator(z=np.ma.masked_invalid(picture))
    lines = [line + 0.5 for level in levels for line in found.lines(level) if len(line) >= MIN_CONTOUR_POINTS]
    return "".join(_path(line) for line in lines)


def _path(points: np.ndarray) -> str:
    """An SVG path in tenths of a pixel; long paths keep every second point."""
    if len(points) > 2 * MIN_CONTOUR_POINTS:
        points = np.concatenate([points[:-1:2], points[-1:]])
    tenths = np.round(points * 10).astype(int)
    steps = np.diff(tenths, axis=0)
    steps = steps[(steps != 0).any(1)]
    if not len(steps):
        return ""
    start = tenths[0] / 10
    return f"M{start[0]:g} {start[1]:g}l" + " ".join(f"{x / 10:g} {y / 10:g}" for x, y in steps)
