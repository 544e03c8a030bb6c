# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Overview figure of a registration: both images before and after."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...geometry import Grid
from .contours import bright_center, contour_levels, smoothed_outline
from .figures import BACKGROUND, FOREGROUND, new_figure
from .planes import Plane, checkerboard, deformed_lines, planes_through, upright, window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["before_after_figure", "before_after_picture"]

COLUMN_TITLES = ("fixed", "moving, before", "moving, warped", "checkerboard, before", "checkerboard, after", "deformed grid")
OUTLINE_COLOR = "#ffb000"
PANEL_INCHES = 2.6


def before_after_picture(
    path: str | Path,
    fixed: torch.Tensor,
    moving_before: torch.Tensor,
    moving_after: torch.Tensor,
    title: str = "",
    displacement_mm: torch.Tensor | None = None,
    square_mm: float | None = None,
    dpi: int = 130,
) -> Path:
    """Write :func:`before_after_figure` to a file.

    Args:
        path: file to write, ``.png``, ``.pdf``, ``.svg``; its folder must exist.
        fixed, moving_before, moving_after, title, displacement_mm, square_mm: see :func:`before_after_figure`.
        dpi: dots per inch.

    Returns:
        ``path``.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the images do not share a grid or are not 2-D or 3-D.
    """
    figure = before_after_figure(fixed, moving_before, moving_after, title, displacement_mm, square_mm)
    target = Path(path).expanduser()
    figure.canvas.print_figure(str(target), dpi=dpi, facecolor=BACKGROUND)
    return target


def before_after_figure(
    fixed: torch.Tensor,
    moving_before: torch.Tensor,
    moving_after: torch.Tensor,
    title: str = "",
    displacement_mm: torch.Tensor | None = None,
    square_mm: float | None = None,
) -> Figure:
    """Draw fixed, moving and warped image, checkerboards, and edges of the fixed image over the others.

    Three planes (axial, coronal, sagittal, patient's right on the left) through the center of the bright voxels of the fixed
    image; one plane for 2-D images. Voxels keep their aspect ratio. Intensity windows are robust to outliers.

    Args:
        fixed: ``(C, *shape)``, the first channel is drawn; a MetaTensor's affine gives orientation and aspect ratio.
        moving_before: ``(C, *shape)`` on the grid of ``fixed``, resampled without a transform.
        moving_after: ``(C, *shape)`` on the grid of ``fixed``, warped.
        title: of the figure.
        displacement_mm: ``(D, *shape)``, RAS mm; if given, a last column shows the deformed grid without its mean shift.
        square_mm: side of a checkerboard square; by default an eighth of the field of view.

    Returns:
        A figure with an Agg canvas of its own; ``figure.canvas.print_figure(path)`` writes it.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the images do not share a grid or are not 2-D or 3-D.
    """
    grid = _shared_grid(fixed, moving_before, moving_after)
    figure, _ = new_figure()
    volumes = []
    for image in (fixed, moving_before, moving_after):
        volume, straight = upright(image[:1], grid)
        volumes.append(window(volume[0]))
    volumes.append(smoothed_outline(volumes[0], straight))
    planes = planes_through(straight, bright_center(volumes[0]))
    field = None if displacement_mm is None else torch.from_numpy(upright(displacement_mm, grid)[0])
    square = square_mm or float(straight.extent.max()) / 8
    axes = _layout(figure, planes, straight, 5 if field is None else 6, title)
    for plane, row in zip(planes, axes, strict=True):
        _draw_row(row, plane, volumes, square)
        if field is not None:
            _draw_grid(row[5], deformed_lines(field, straight, plane, float(straight.extent.max()) / 28))
    return figure


def _shared_grid(fixed: torch.Tensor, *others: torch.Tensor) -> Grid:
    grid = Grid.of(fixed)
    if grid.dims not in (2, 3):
        raise ValueError(f"images must be (C, *spatial) with 2 or 3 spatial axes, got {tuple(fixed.shape)}")
    for other in others:
        if tuple(other.shape[1:]) != grid.shape:
            raise ValueError(f"all images must be on the grid {grid.shape} of the fixed image, got {tuple(other.shape[1:])}")
    return grid


def _layout(figure: Figure, planes: list[Plane], grid: Grid, columns: int, title: str) -> np.ndarray:
    """Axes ``(planes, columns)``, with rows as high as their planes."""
    sizes = [(grid.extent[p.across], grid.extent[p.up]) for p in planes]
    widest = max(width for width, _ in sizes)
    heights = [height / widest for _, height in sizes]
    top = 0.56 if title else 0.3
    width, height = columns * PANEL_INCHES, sum(heights) * PANEL_INCHES + top
    figure.set_size_inches(width, height)
    axes = figure.subplots(len(planes), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    figure.subplots_adjust(0.004, 0.004, 0.996, 1 - top / height, 0.02, 0.02)
    if title:
        figure.suptitle(title, color=FOREGROUND, fontsize=12, y=1 - 0.05 / height, va="top")
    for axis, name in zip(axes[0], COLUMN_TITLES, strict=False):
        axis.set_title(name, color=FOREGROUND, fontsize=10, pad=4)
    for axis in axes.flat:
        axis.set_facecolor(BACKGROUND)
        axis.set_axis_off()
    return axes


def _draw_row(row: Iterable[Axes], plane: Plane, volumes: list[np.ndarray], square_mm: float) -> None:
    fixed, before, after, edges = (plane.cut(v) for v in volumes)
    boards = [checkerboard(fixed, other, plane.step, square_mm) for other in (before, after)]
    extent = (0.0, fixed.shape[1] * plane.step[0], 0.0, fixed.shape[0] * plane.step[1])
    for axis, picture in zip(row, (fixed, before, after, *boards), strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear", aspect="equal")
        if picture is before or picture is after:
            _outline(axis, edges, extent)
        _letters(axis, plane.labels)


def _outline(axis: Axes, fixed: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Draw contours of the fixed image, at its outer edge and between its tissues."""
    levels = contour_levels(fixed)
    if levels:
        axis.contour(fixed, levels, colors=OUTLINE_COLOR, linewidths=0.7, alpha=0.9, extent=extent, origin="upper")


def _draw_grid(axis: Axes, lines: list[np.ndarray]) -> None:
    for line in lines:
        axis.plot(line[:, 0], line[:, 1], color=FOREGROUND, linewidth=0.5)
    axis.set_aspect("equal")


def _letters(axis: Axes, labels: tuple[str, str, str, str]) -> None:
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(labels, places, strict=True):
        axis.text(x, y, letter, transform=axis.transAxes, color=FOREGROUND, fontsize=7, ha=ha, va=va)
