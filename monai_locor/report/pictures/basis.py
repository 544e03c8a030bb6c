# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The basis functions that a loss has learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .figures import BACKGROUND, FOREGROUND, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ...networks import LearnedBasis

__all__ = ["basis_picture"]

LINE_COLORS = (
    "#56b4e9",
    "#e69f00",
    "#2fbf8f",
    "#f0e442",
    "#e58cc0",
    "#ff6d4d",
)  # after Okabe and Ito, safe for color blindness
LINE_STYLES = ("-", "--", ":", "-.")
SPINE_COLOR = "#8a8a8a"
MAX_COLUMNS = 5
AXIS_SAMPLES = 129


def basis_picture(basis: LearnedBasis, title: str = "", dpi: int = 130) -> Figure:
    """Draw basis functions of the intensity, or of the intensity and the derivative magnitude.

    One channel: curves over the intensity. Two channels: a map of each function over intensity (horizontal) and derivative
    magnitude (vertical), with contours. Each map has a color scale of its own, given by the lowest and highest value above
    it: a linear combination of the functions can undo their scale. Both axes run from 0 to 1. Further channels are set to 0.

    Args:
        basis: learned basis; its device and mode do not change.
        title: of the figure.
        dpi: dots per inch.

    Returns:
        A figure with an Agg canvas of its own; ``figure.canvas.print_figure(path)`` writes it.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure, _ = new_figure()
    figure.set_dpi(dpi)
    values = _values(basis)
    if values.ndim == 2:
        _curves(figure, values)
    else:
        _maps(figure, values)
    if title:
        figure.suptitle(title, color=FOREGROUND, fontsize=12, y=1 - 0.1 / figure.get_figheight(), va="top")
    return figure


@torch.no_grad()
def _values(basis: LearnedBasis) -> np.ndarray:
    """``(J, N)`` over the intensity or ``(J, N, N)`` over (derivative magnitude, intensity), N = AXIS_SAMPLES."""
    weight = next(basis.parameters())
    axis = torch.linspace(0, 1, AXIS_SAMPLES, device=weight.device, dtype=weight.dtype)
    if basis.in_channels == 1:
        return basis(axis[None, None])[0].float().cpu().numpy()
    magnitude, intensity = torch.meshgrid(axis, axis, indexing="ij")
    channels = [intensity, magnitude, *[torch.zeros_like(intensity)] * (basis.in_channels - 2)]
    return basis(torch.stack(channels)[None])[0].float().cpu().numpy()


def _curves(figure: Figure, values: np.ndarray) -> None:
    figure.set_size_inches(6.4, 4.4)
    axis = figure.subplots()
    figure.subplots_adjust(0.11, 0.13, 0.86, 0.88)
    for number, curve in enumerate(values):
        color, style = LINE_COLORS[number % len(LINE_COLORS)], LINE_STYLES[number // len(LINE_COLORS) % len(LINE_STYLES)]
        axis.plot(np.linspace(0, 1, AXIS_SAMPLES), curve, color=color, linestyle=style, linewidth=2, label=_name(number))
    axis.margins(x=0)
    axis.grid(color=FOREGROUND, alpha=0.15, linewidth=0.6)
    axis.set_xlabel("intensity", color=FOREGROUND)
    axis.set_ylabel("value", color=FOREGROUND)
    _dark(axis)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=FOREGROUND, handlelength=1.6)


def _maps(figure: Figure, values: np.ndarray) -> None:
    columns = min(MAX_COLUMNS, len(values))
    rows = -(-len(values) // columns)
    panels, height = columns * 2.3 + 0.8, rows * 2.65 + 0.7
    width = max(panels, 5.2)  # room for a title
    side = (width - panels) / 2
    figure.set_size_inches(width, height)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust((side + 0.62) / width, 0.55 / height, 1 - (side + 0.18) / width, 1 - 0.68 / height, 0.14, 0.24)
    for number, (axis, surface) in enumerate(zip(axes.flat, values, strict=False)):
        low, high = float(surface.min()), float(surface.max())
        axis.imshow(surface, cmap="viridis", extent=(0, 1, 0, 1), origin="lower", aspect="equal")
        if high - low > 1e-6:
            axis.contour(surface, 7, colors=BACKGROUND, linewidths=0.5, alpha=0.6, extent=(0, 1, 0, 1))
        axis.set_title(f"{_name(number)}   {low:.2f} … {high:.2f}", color=FOREGROUND, fontsize=10, pad=5)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"] if number >= len(values) - columns else [])
        axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if number % columns == 0 else [])
        _dark(axis)
    for axis in axes.flat[len(values) :]:
        axis.set_axis_off()
    figure.supxlabel("intensity", color=FOREGROUND, fontsize=10, y=0.1 / height, va="bottom")
    figure.supylabel("derivative magnitude", color=FOREGROUND, fontsize=10, x=(side + 0.1) / width, ha="left")


def _dark(axis: Axes) -> None:
    axis.set_facecolor(BACKGROUND)
    axis.tick_params(colors=FOREGROUND, labelsize=8)
    for spine in axis.spines.values():
        spine.set_color(SPINE_COLOR)


def _name(number: int) -> str:
    return rf"$\psi_{{{number + 1}}}$"
