# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The figure of a local fit: images, residuals, samples with fitted functions, basis functions."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ..pictures.figures import new_figure
from .fit import LocalFit, fit_at
from .fit_panels import INK, INTENSITY_COLORMAP, Limits, draw_basis, draw_fit, draw_surface
from .image_panels import Cut, cut_through, draw_image, draw_residual, residual_norm, residual_picture
from .layout import Layout, make_layout
from .samples import Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fit_figure"]

FONT_SIZE = 8.5  # points
MUTED = "#6b6b6b"


@dataclass(frozen=True)
class _Column:
    """A fit, its heading, and the residual of the same basis before; None without valid data."""

    fit: LocalFit | None
    heading: str
    before: float | None = None


def fit_figure(
    before: Samples,
    after: Samples,
    point_mm: Sequence[float] | np.ndarray,
    *,
    degree: int | None = None,
    plane: str = "axial",
    title: str = "",
) -> Figure:
    """Draw the local fit around a point, before and after, with the learned and with the polynomial basis.

    Top: a plane through the point, with the images and the residual of the windows around all voxels, gray where a window is
    not valid. Bottom: the samples of the window, fixed against moving intensity, with the fitted function; if the basis uses
    the derivative magnitude, sections of the fitted surface, and the surface itself. Right: the basis functions.

    Args:
        before, after: of :func:`.samples_of_result`.
        point_mm: center of the window, ``(D,)`` RAS mm in the fixed image.
        degree: of the polynomials, by default that of the settings.
        plane: ``"axial"``, ``"coronal"`` or ``"sagittal"``, of the images; 2-D images have only one.
        title: of the figure; by default the point.

    Returns:
        A figure with an Agg canvas of its own; ``figure.canvas.print_figure(path)`` writes it.
    """
    columns = _columns(before, after, point_mm, degree)
    cut = cut_through(after, after.index(point_mm), plane)
    figure, _ = new_figure("#ffffff")
    axes = make_layout(figure, cut, len(columns), len(columns) - 1, after.moving.shape[1] > 1)
    _draw_images(axes, before, after, cut)
    _draw_fits(axes, columns)
    _draw_bases(axes, columns[1:])
    for letter, axis in zip(string.ascii_lowercase, [*axes.images, *axes.fits.flat, *axes.bases], strict=False):
        axis.set_title(f"{letter}", loc="left", fontsize=FONT_SIZE + 0.5, fontweight="bold", color=INK, pad=4)
    _headings(figure, title, np.asarray(point_mm, dtype=np.float64), after, columns[1].fit)
    return figure


def _columns(before: Samples, after: Samples, point_mm: Sequence[float] | np.ndarray, degree: int | None) -> list[_Column]:
    """Fits before and after with the basis of the registration, and after with the polynomial one."""
    names = ["polynomial"] if after.learned is None else ["learned", "polynomial"]
    first = [_fit_or_none(before, point_mm, name, degree) for name in names]
    columns = [_Column(first[0], f"before, {names[0]} basis")]
    for name, fit in zip(names, first, strict=True):
        found = fit_at(after, point_mm, name, degree=degree)
        columns.append(_Column(found, f"after, {name} basis", None if fit is None else fit.residual))
    return columns


def _fit_or_none(samples: Samples, point_mm: Sequence[float] | np.ndarray, name: str, degree: int | None) -> LocalFit | None:
    try:
        return fit_at(samples, point_mm, name, degree=degree)
    except InputError:  # the window may lie outside the moving image before
        return None


def _draw_images(axes: Layout, before: Samples, after: Samples, cut: Cut) -> None:
    for axis, volume, name in zip(
        axes.images,
        (after.fixed, before.moving, after.moving),
        ("fixed", "moving, before", "moving, after"),
        strict=False,
    ):
        draw_image(axis, volume[0, 0].numpy(), cut)
        axis.set_title(name, fontsize=FONT_SIZE, color=INK, pad=4)
    pictures = [residual_picture(samples, None, cut) for samples in (before, after)]
    norm = residual_norm(pictures, after.config.eps)
    for axis, picture, name in zip(axes.images[3:], pictures, ("before", "after"), strict=True):
        shown = draw_residual(axis, picture, cut, norm)
        axis.set_title(f"R, {name}{_loss(picture, after)}", fontsize=FONT_SIZE, color=INK, pad=4)
    _bar(axes.image_bar, shown, "local residual R")


def _loss(picture: np.ndarray, samples: Samples) -> str:
    """Text with the loss of the plane."""
    known = picture[np.isfinite(picture)]
    if not known.size or samples.config.form == "robust":  # depends on all windows
        return ""
    if samples.config.form == "normalized":
        return f", mean {known.mean():.2f}"
    return f", mean log(R + ε) {np.log(known + samples.config.eps).mean():.2f}".replace("-", "\N{MINUS SIGN}")


def _draw_fits(axes: Layout, columns: list[_Column]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    limits = Limits.of([column.fit for column in columns if column.fit is not None])
    for number, column in enumerate(columns):
        upper, lower = axes.fits[0, number], axes.fits[1:, number]
        upper.set_title(column.heading, fontsize=FONT_SIZE, color=INK, pad=4)
        if column.fit is None:
            _draw_no_data(axes.fits[:, number])
            continue
        draw_fit(upper, column.fit, limits)
        _note(upper, column.fit, column.before)
        for axis in lower:
            draw_surface(axis, column.fit, limits)
            axis.set_title("fitted surface", fontsize=FONT_SIZE, color=INK, pad=4)
        axes.fits[-1, number].set_xlabel("moving intensity", fontsize=FONT_SIZE, color=INK)
    _share_ordinates(axes, next(number for number, column in enumerate(columns) if column.fit is not None))
    if axes.fit_bars:
        steps = limits.color(np.linspace(*limits.magnitude, 256))
        _bar(axes.fit_bars[0], ScalarMappable(Normalize(*limits.magnitude), ListedColormap(steps)), "derivative magnitude")
        _bar(axes.fit_bars[1], ScalarMappable(Normalize(*limits.fixed), INTENSITY_COLORMAP), "fixed intensity")


def _share_ordinates(axes: Layout, first: int) -> None:
    """Keep the axis labels of the first column with a fit only; all columns have the same limits."""
    for row, name in zip(axes.fits, ("fixed intensity", "derivative magnitude"), strict=False):
        row[first].set_ylabel(name, fontsize=FONT_SIZE, color=INK)
        for axis in row[first + 1 :]:
            axis.set_yticklabels([])


def _draw_bases(axes: Layout, columns: list[_Column]) -> None:
    for axis, column in zip(axes.bases, columns, strict=True):
        if column.fit is not None:
            draw_basis(axis, column.fit)
            name = column.heading.removeprefix("after, ").removesuffix(" basis")
            axis.set_title(f"ψ, {name}, J = {len(column.fit.theta)}", fontsize=FONT_SIZE, color=INK, pad=4)
        if axis is axes.bases[-1] or not axes.fit_bars:
            axis.set_xlabel("moving intensity", fontsize=FONT_SIZE, color=INK)


def _note(axis: Axes, fit: LocalFit, before: float | None) -> None:
    share = "" if np.isnan(fit.explained) else f"\n{fit.explained:.1%} of the variance"
    was = "" if before is None else f" (before: {_number(before)})"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    how: dict[str, Any] = {"fontsize": 7.5, "color": INK, "ha": "left", "va": "bottom", "bbox": box, "zorder": 9}
    axis.text(0.02, 0.02, f"R = {_number(fit.residual)}{was}{share}", transform=axis.transAxes, **how)


def _number(value: float) -> str:
    """Format with two digits: 0.066, or 8.9 times a power of ten."""
    if value >= 0.01 or value <= 0:
        return f"{value:.2g}"
    digits, power = f"{value:.1e}".split("e")
    return rf"${digits}\times10^{{{int(power)}}}$"


def _per_axis(values: Iterable[float]) -> str:
    """Format one value for all axes, or all values if they differ."""
    texts = [f"{value:.3g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else " × ".join(texts)


def _headings(figure: Figure, title: str, point_mm: np.ndarray, after: Samples, fit: LocalFit | None) -> None:
    place = ", ".join(f"{x:.1f}" for x in point_mm)
    sigma, apart = (_per_axis(values) for values in (after.windows.sigma, after.grid.spacing))
    about = f"Gaussian window, σ = {sigma} samples, which are {apart} mm apart"
    if fit is not None:
        about += f"; {len(fit.weights)} samples in it. Larger dots weigh more."
    height = figure.get_figheight()
    how: dict[str, Any] = {"x": 0.012, "ha": "left", "va": "top"}
    heading = title or f"Local fit around ({place}) mm".replace("-", "\N{MINUS SIGN}")
    figure.suptitle(heading, color=INK, fontsize=12, y=1 - 0.08 / height, **how)
    figure.text(s=about, color=MUTED, fontsize=FONT_SIZE, y=1 - 0.3 / height, **how)


def _draw_no_data(axes: np.ndarray) -> None:
    for axis in axes:
        axis.set_axis_off()
        axis.text(
            0.5, 0.5, "no data of the moving image", transform=axis.transAxes, fontsize=FONT_SIZE, ha="center", va="center"
        )


def _bar(axis: Axes, shown: Any, name: str) -> None:
    bar = axis.figure.colorbar(shown, cax=axis)
    bar.set_label(name, fontsize=7.5, color=INK, labelpad=2)
    bar.outline.set_linewidth(0.4)
    axis.tick_params(labelsize=7, width=0.5, length=2, colors=INK)
