# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""Cuts through volumes as pictures that a page can hold: film strips, contours, colours."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..geometry import Grid
from .picture import contour_levels
from .planes import Plane, deformed_lines, planes_through

__all__ = ["View", "colours", "data_uri", "views_of"]

LARGEST = 320  # pixels along the longer side of a picture
SLICES = 15
QUALITY = 82
EDGE = 0.05  # share of what is bright that may lie beyond the outermost slice, on either side
SHORT = 10  # pixels: shorter contours are noise
NAMES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class View:
    """One way of cutting an upright volume, at several places.

    Attributes:
        name: ``"axial"``, ``"coronal"``, ``"sagittal"``, or ``"image"`` in two dimensions.
        planes: the cuts, in order.
        start: which of them goes through the middle.
        size: width and height in pixels.
        pixel: side of a pixel, mm.
    """

    name: str
    planes: tuple[Plane, ...]
    start: int
    size: tuple[int, int]
    pixel: float

    def pictures(self, volume: np.ndarray, only_start: bool = False) -> list[np.ndarray]:
        """The cuts through ``(*shape)``, square pixels, ``(height, width)`` each."""
        planes = self.planes[self.start : self.start + 1] if only_start else self.planes
        flat = torch.from_numpy(np.stack([np.ascontiguousarray(plane.cut(volume)) for plane in planes])).float()
        size = self.size[::-1]
        return list(F.interpolate(flat[None], size, mode="bilinear", antialias=True, align_corners=False)[0].numpy())

    def strip(self, volume: np.ndarray) -> str:
        """All cuts of a volume in [0, 1], one below the other."""
        return data_uri(np.concatenate(self.pictures(volume)))

    def contours(self, volume: np.ndarray) -> list[str]:
        """SVG paths of the contours of each cut."""
        return [_contours(picture) for picture in self.pictures(volume)]

    def grid_lines(self, displacement_mm: torch.Tensor, grid: Grid) -> list[str]:
        """SVG paths, in pixels, of the deformed grid of the middle cut; ``grid`` is upright."""
        plane = self.planes[self.start]
        height = float(grid.extent[plane.up])
        half = np.array(plane.step) / 2
        lines = deformed_lines(displacement_mm, grid, plane, float(grid.extent.max()) / 30)
        paths = []
        for line in lines:
            x, y = ((line + half) * (1, -1) + (0, height)).T / self.pixel
            paths.append(_path(np.stack([x, y], 1)))
        return paths


def views_of(grid: Grid, centre: Sequence[int], bright: np.ndarray) -> list[View]:
    """Axial, coronal and sagittal cuts of an upright volume.

    Args:
        centre: voxel that the middle cuts go through.
        bright: ``(*shape)``, what is to be seen.
    """
    views = []
    for number, plane in enumerate(planes_through(grid, centre)):
        extent = grid.extent[plane.across], grid.extent[plane.up]
        pixel = max(min(plane.step), float(max(extent)) / LARGEST)
        size = max(1, round(float(extent[0]) / pixel)), max(1, round(float(extent[1]) / pixel))
        if plane.index is None:
            views.append(View("image", (plane,), 0, size, pixel))
            continue
        places = _places(bright, 3 - plane.across - plane.up, plane.index)
        planes = tuple(dataclasses.replace(plane, index=i) for i in places)
        views.append(View(NAMES[number], planes, places.index(plane.index), size, pixel))
    return views


def _places(bright: np.ndarray, axis: int, middle: int) -> list[int]:
    """Where to cut an axis, the middle among it."""
    mass = bright.sum(tuple(a for a in range(bright.ndim) if a != axis), dtype=np.float64).cumsum()
    low, high = (int(np.searchsorted(mass, q * mass[-1])) for q in (EDGE, 1 - EDGE))
    below = np.linspace(min(low, middle), middle, SLICES // 2 + 1)
    above = np.linspace(middle, max(high, middle), SLICES // 2 + 1)
    return sorted({round(float(i)) for i in (*below, *above)})


def data_uri(picture: np.ndarray) -> str:
    """A picture in [0, 1], ``(height, width)`` or ``(height, width, 3)``, as a JPEG that a page can hold."""
    from PIL import Image  # comes with matplotlib

    buffer = io.BytesIO()
    values = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(values).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def colours(values: np.ndarray, low: float, high: float, name: str) -> np.ndarray:
    """``(*shape, 3)`` of ``(*shape)`` by one of matplotlib's colour maps; dark where a value is not finite."""
    from matplotlib import colormaps

    mapped = np.asarray(colormaps[name](np.clip((values - low) / max(high - low, 1e-12), 0, 1)))[..., :3]
    mapped[~np.isfinite(values)] = 0.09
    return mapped


def _contours(picture: np.ndarray) -> str:
    from contourpy import contour_generator  # comes with matplotlib

    levels = contour_levels(picture)
    if not levels:
        return ""
    found: Any = contour_generator(z=picture)
    lines = [line + 0.5 for level in levels for line in found.lines(level) if len(line) >= SHORT]
    return "".join(_path(line) for line in lines)


def _path(points: np.ndarray) -> str:
    """An SVG path in tenths of pixels' precision, without every second point where they lie close."""
    if len(points) > 2 * SHORT:
        points = np.concatenate([points[:-1:2], points[-1:]])
    tenths = np.round(points * 10).astype(int)
    steps = np.diff(tenths, axis=0)
    steps = steps[(steps != 0).any(1)]
    if not len(steps):
        return ""
    start = tenths[0] / 10
    return f"M{start[0]:g} {start[1]:g}l" + " ".join(f"{x / 10:g} {y / 10:g}" for x, y in steps)
