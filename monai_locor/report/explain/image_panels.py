# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Panels of images and residuals, with the window and an enlarged inset of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ..pictures.planes import Plane, planes_through
from .fit import plane_residual
from .samples import Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PLANES", "Cut", "cut_through", "draw_image", "draw_residual", "residual_norm", "residual_picture"]

PLANES = ("axial", "coronal", "sagittal")
WINDOW_COLOR = "#ffb000"
INSET_HALF_SIDES = 3.2  # half the side of the inset, in half sides of the window
RESIDUAL_COLORMAP = "magma"


@dataclass(frozen=True)
class Cut:
    """A plane through a point of the samples, and the position of the window in its picture.

    Attributes:
        plane: see :func:`monai_locor.report.pictures.planes.planes_through`.
        axis: array axis normal to the plane, or None in 2-D.
        size: of the picture, (width, height) mm.
        center: of the window in the picture, mm from its lower left corner.
        half: half the sides of the window in the picture, mm.
    """

    plane: Plane
    axis: int | None
    size: tuple[float, float]
    center: tuple[float, float]
    half: tuple[float, float]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """For ``imshow``."""
        return (0.0, self.size[0], 0.0, self.size[1])


def cut_through(samples: Samples, index: np.ndarray, name: str) -> Cut:
    """The plane of this name through an index of the samples; 2-D images have only one.

    Raises:
        InputError: for an unknown name.
    """
    if name not in PLANES:
        raise InputError(f"plane must be one of {', '.join(PLANES)}, got {name!r}.")
    nearest = np.clip(np.round(index).astype(int), 0, np.array(samples.grid.shape) - 1)
    planes = planes_through(samples.grid, nearest.tolist())
    plane = planes[PLANES.index(name) if samples.dims == 3 else 0]
    shape, step = samples.grid.shape, plane.step
    size = (shape[plane.across] * step[0], shape[plane.up] * step[1])
    center = ((index[plane.across] + 0.5) * step[0], (index[plane.up] + 0.5) * step[1])
    if plane.mirror:
        center = (size[0] - center[0], center[1])
    sigma = np.array(samples.windows.sigma)[[plane.across, plane.up]]
    reach = np.floor(np.maximum(samples.config.truncated * sigma, 0.5)) + 0.5
    axis = None if plane.index is None else 3 - plane.across - plane.up
    return Cut(plane, axis, size, (float(center[0]), float(center[1])), (float(reach[0] * step[0]), float(reach[1] * step[1])))


def draw_image(axis: Axes, volume: np.ndarray, cut: Cut) -> None:
    """Draw one channel of the samples, ``(*grid)``, normalized, in gray; black where it is not finite."""
    picture = np.nan_to_num(cut.plane.cut(volume))
    _draw(axis, picture, cut, {"cmap": "gray", "vmin": 0, "vmax": 1})


def residual_norm(pictures: list[np.ndarray], eps: float) -> Any:
    """Common logarithmic color scale of residual maps, from the epsilon of the loss."""
    from matplotlib.colors import LogNorm

    values = np.concatenate([p[np.isfinite(p)] for p in pictures])
    high = float(np.quantile(values, 0.995)) if values.size else 1.0
    return LogNorm(eps, max(high, 10 * eps))


def residual_picture(samples: Samples, basis: Any, cut: Cut) -> np.ndarray:
    """Residual of the windows around all samples of the plane, as a picture."""
    flat = plane_residual(samples, basis, cut.axis, cut.plane.index or 0)
    shaped = flat if cut.axis is None else np.expand_dims(flat, cut.axis)
    whole = np.broadcast_to(shaped, samples.grid.shape)
    return cut.plane.cut(whole)


def draw_residual(axis: Axes, picture: np.ndarray, cut: Cut, norm: Any) -> Any:
    """Draw the residuals of a plane, gray where a window is not valid. Returns the image for a color bar."""
    import matplotlib

    colors = matplotlib.colormaps[RESIDUAL_COLORMAP].with_extremes(bad="#9a9a9a")
    return _draw(axis, np.ma.masked_invalid(np.clip(picture, norm.vmin, None)), cut, {"cmap": colors, "norm": norm})


def _draw(axis: Axes, picture: np.ndarray, cut: Cut, how: dict[str, Any]) -> Any:
    shown = axis.imshow(picture, extent=cut.extent, aspect="equal", interpolation="nearest", **how)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    _mark(axis, cut, 0.9)
    _closer(axis, picture, cut, how)
    if cut.plane.labels[0]:
        place = (0.02, 0.98, "top") if _high(cut) else (0.02, 0.02, "bottom")
        letter: dict[str, Any] = {"transform": axis.transAxes, "color": "white", "fontsize": 7.5, "ha": "left", "va": place[2]}
        axis.text(*place[:2], cut.plane.labels[0], **letter)
    return shown


def _mark(axis: Axes, cut: Cut, width: float) -> None:
    from matplotlib.patches import Rectangle

    corner = (cut.center[0] - cut.half[0], cut.center[1] - cut.half[1])
    axis.add_patch(Rectangle(corner, 2 * cut.half[0], 2 * cut.half[1], fill=False, edgecolor=WINDOW_COLOR, linewidth=width))


def _high(cut: Cut) -> bool:
    """Whether the window is in the upper half of the picture."""
    return cut.center[1] > cut.size[1] / 2


def _closer(axis: Axes, picture: np.ndarray, cut: Cut, how: dict[str, Any]) -> None:
    """Draw the enlarged neighborhood of the window in the corner that is farthest from it."""
    width, height = cut.size
    side = 0.38 * min(width, height)
    box = (0.0 if cut.center[0] > width / 2 else 1 - side / width, 0.0 if _high(cut) else 1 - side / height)
    inset = axis.inset_axes((*box, side / width, side / height))
    inset.imshow(picture, extent=cut.extent, aspect="equal", interpolation="nearest", **how)
    half = INSET_HALF_SIDES * max(cut.half)
    inset.set_xlim(cut.center[0] - half, cut.center[0] + half)
    inset.set_ylim(cut.center[1] - half, cut.center[1] + half)
    inset.set_facecolor("black")
    inset.set_xticks([])
    inset.set_yticks([])
    for spine in inset.spines.values():
        spine.set_edgecolor("white")
        spine.set_linewidth(0.8)
    _mark(inset, cut, 1.3)
