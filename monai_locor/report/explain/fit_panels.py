# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The panels of a fit: samples and fitted function, the fitted surface, the basis functions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ...networks.basis import PolynomialBasis
from .fit import LocalFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "INK",
    "INTENSITY_COLORMAP",
    "Limits",
    "draw_basis",
    "draw_fit",
    "draw_surface",
    "function_names",
    "weighted_quantile",
]

INK, MUTED, PAPER, RULE = "#1a1a1a", "#6b6b6b", "#ffffff", "#bdbdbd"
CHANNEL_SYMBOLS = ("m", "g")
MAGNITUDE_COLORMAP = "plasma"  # of the derivative magnitude
MAGNITUDE_COLORMAP_END = 0.86  # the lighter colors are not visible on white
MAGNITUDE_QUANTILES = (0.1, 0.5, 0.9)  # of the sections through the fitted surface
INTENSITY_COLORMAP = "viridis"  # of the fixed intensity, fitted and true
CURVE_POINTS = 160
LINE_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # Okabe and Ito, for the color-blind
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1.2)))
NOTE_MARGIN = 0.22  # below the samples, share of the axis
FADE_DISTANCE = 0.12  # share of the panel: the surface fades where the nearest sample is farther


def weighted_quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    """Weighted quantile: the smallest value with a cumulative weight of at least the share q.

    >>> weighted_quantile(np.array([3.0, 1.0, 2.0]), np.array([0.1, 0.6, 0.3]), 0.5)
    1.0
    """
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(total, q * total[-1] - 1e-12)), len(order) - 1)])


@dataclass(frozen=True)
class Limits:
    """Common axis limits of several panels: (low, high) each."""

    moving: tuple[float, float]
    magnitude: tuple[float, float]
    fixed: tuple[float, float]

    @classmethod
    def of(cls, fits: list[LocalFit]) -> Limits:
        """Limits of the samples of several fits, with a margin."""
        moving = np.concatenate([f.moving[:, 0] for f in fits])
        magnitude = np.concatenate([f.moving[:, -1] for f in fits])
        fixed = np.concatenate([f.fixed for f in fits])
        return cls(_span(moving), _span(magnitude), _span(fixed))

    def color(self, magnitude: np.ndarray | float) -> Any:
        """Color of a derivative magnitude."""
        import matplotlib

        low, high = self.magnitude
        return matplotlib.colormaps[MAGNITUDE_COLORMAP](
            MAGNITUDE_COLORMAP_END * np.clip((magnitude - low) / (high - low), 0, 1)
        )


def _span(values: np.ndarray, margin: float = 0.06) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    width = max(high - low, 0.02)
    return low - margin * width, high + margin * width


def draw_fit(axis: Axes, fit: LocalFit, limits: Limits | None = None) -> None:
    """Draw the samples of the window, with areas by weight, and the fitted function.

    With intensity and derivative magnitude, the function is a surface. Colors then show the derivative magnitude of the
    samples and of three sections through the surface. A section is solid where the window has samples of about that
    magnitude. Thin lines connect the samples with the surface.
    """
    limits = limits or Limits.of([fit])
    x, magnitude = fit.moving[:, 0], fit.moving[:, -1]
    surface = fit.moving.shape[1] > 1
    segments = np.stack([np.stack([x, fit.fixed], 1), np.stack([x, fit.fitted], 1)], 1)
    _stems(axis, segments, fit.weights)
    colors = limits.color(magnitude) if surface else LINE_COLORS[0]
    size = _sizes(fit)
    order = np.argsort(-fit.weights)
    axis.scatter(
        x[order],
        fit.fixed[order],
        s=size[order],
        c=colors[order] if surface else colors,
        alpha=0.8,
        edgecolors=PAPER,
        linewidths=0.4,
        zorder=3,
    )
    if surface:
        for level, near in _levels(fit):
            _cut(axis, fit, limits, level, near)
    else:
        line = np.linspace(*limits.moving, CURVE_POINTS)
        axis.plot(line, fit(line[:, None]), color=LINE_COLORS[1], linewidth=1.8, zorder=4)
    low, high = limits.fixed
    axis.set_xlim(*limits.moving)
    axis.set_ylim(low - NOTE_MARGIN * (high - low), high)
    frame(axis)


def _sizes(fit: LocalFit) -> np.ndarray:
    """Marker areas, linear in the weight, with a visible minimum."""
    return 7 + 90 * fit.weights / fit.weights.max()


def _stems(axis: Axes, segments: np.ndarray, weights: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    shade = np.zeros((len(weights), 4))
    shade[:, 3] = 0.1 + 0.5 * weights / weights.max()
    axis.add_collection(LineCollection(list(segments), colors=list(shade), linewidths=0.6, zorder=1), autolim=False)


def _levels(fit: LocalFit) -> list[tuple[float, np.ndarray]]:
    """Derivative magnitudes of the sections, and the samples near each of them: a third of the weight."""
    magnitude = fit.moving[:, -1]
    edges = [-np.inf, *(weighted_quantile(magnitude, fit.weights, q) for q in (1 / 3, 2 / 3)), np.inf]
    values = [weighted_quantile(magnitude, fit.weights, q) for q in MAGNITUDE_QUANTILES]
    return [
        (value, (magnitude >= low) & (magnitude <= high))
        for value, (low, high) in zip(values, itertools.pairwise(edges), strict=True)
    ]


def _cut(axis: Axes, fit: LocalFit, limits: Limits, level: float, near: np.ndarray) -> None:
    line = np.linspace(*limits.moving, CURVE_POINTS)
    values = fit(_points(line, level, fit.moving.shape[1]))
    x, weights = fit.moving[near, 0], fit.weights[near]
    low, high = (weighted_quantile(x, weights, q) for q in (0.02, 0.98))
    known = (line >= low - 1e-3) & (line <= high + 1e-3)
    color = limits.color(level)
    axis.plot(line, values, color=color, linewidth=0.7, linestyle=(0, (3, 2)), zorder=2)
    axis.plot(line[known], values[known], color=PAPER, linewidth=3.4, zorder=4, solid_capstyle="round")
    axis.plot(line[known], values[known], color=color, linewidth=2.0, zorder=5, solid_capstyle="round")


def _points(intensity: np.ndarray, magnitude: np.ndarray | float, channels: int) -> np.ndarray:
    """Input of the basis functions, ``(M, C)``; without the magnitude for a single channel."""
    columns = [intensity, np.broadcast_to(magnitude, intensity.shape)][:channels]
    return np.stack(columns, -1)


def draw_surface(axis: Axes, fit: LocalFit, limits: Limits | None = None) -> None:
    """Draw the fitted surface over intensity and derivative magnitude, and the samples in the same colors.

    In a good fit, samples blend into the surface. The surface fades where there are no samples.
    """
    import matplotlib

    limits = limits or Limits.of([fit])
    x, y = np.meshgrid(np.linspace(*limits.moving, CURVE_POINTS), np.linspace(*limits.magnitude, CURVE_POINTS))
    values = fit(_points(x.ravel(), y.ravel(), 2)).reshape(x.shape)
    low, high = limits.fixed
    picture = matplotlib.colormaps[INTENSITY_COLORMAP](np.clip((values - low) / (high - low), 0, 1))
    picture[..., 3] = _nearness(x, y, fit, limits)
    axis.imshow(picture, extent=(*limits.moving, *limits.magnitude), origin="lower", aspect="auto", interpolation="bilinear")
    axis.scatter(
        fit.moving[:, 0],
        fit.moving[:, 1],
        s=_sizes(fit),
        c=fit.fixed,
        cmap=INTENSITY_COLORMAP,
        vmin=low,
        vmax=high,
        edgecolors=INK,
        linewidths=0.5,
    )
    axis.set_xlim(*limits.moving)
    axis.set_ylim(*limits.magnitude)
    frame(axis)


def _nearness(x: np.ndarray, y: np.ndarray, fit: LocalFit, limits: Limits) -> np.ndarray:
    """Opacity: one at the samples, almost zero far from them; distances in units of the panel."""
    width, height = np.ptp(limits.moving), np.ptp(limits.magnitude)
    squares = np.full(x.shape, np.inf)
    for sample in fit.moving:
        np.minimum(squares, ((x - sample[0]) / width) ** 2 + ((y - sample[1]) / height) ** 2, out=squares)
    return 0.06 + 0.94 * np.exp(-squares / (2 * (FADE_DISTANCE / 2) ** 2))


def draw_basis(axis: Axes, fit: LocalFit) -> None:
    """Draw the basis functions over the whole range of intensities, at the median derivative magnitude of the window.

    Thin lines: at its 10 % and 90 % quantiles. The band spans the samples of the window.
    """
    line = np.linspace(0, 1, CURVE_POINTS)
    magnitude = fit.moving[:, -1]
    axis.axvspan(float(fit.moving[:, 0].min()), float(fit.moving[:, 0].max()), color="#efefef", zorder=0, linewidth=0)
    names = function_names(fit.basis, len(fit.theta))
    for q in MAGNITUDE_QUANTILES if fit.moving.shape[1] > 1 else (0.5,):
        values = fit.psi_at(_points(line, weighted_quantile(magnitude, fit.weights, q), fit.moving.shape[1]))
        for number, curve in enumerate(values.T):
            main = q == 0.5
            axis.plot(
                line,
                curve,
                color=LINE_COLORS[number % len(LINE_COLORS)],
                linestyle=LINE_STYLES[number // len(LINE_COLORS) % len(LINE_STYLES)],
                linewidth=1.8 if main else 0.6,
                alpha=1 if main else 0.7,
                label=names[number] if main else None,
            )
    axis.set_xlim(0, 1)
    frame(axis)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7.5, handlelength=1.6, labelspacing=0.25)


def function_names(basis: nn.Module, number: int) -> list[str]:
    """Names of the basis functions for legends: monomials of m (intensity) and g (derivative magnitude), or psi with a number.

    >>> function_names(PolynomialBasis(2, degree=2), 6)
    ['1', '$m$', '$g$', '$m^{2}$', '$m g$', '$g^{2}$']
    """
    if not isinstance(basis, PolynomialBasis) or basis.in_channels > len(CHANNEL_SYMBOLS):
        return [rf"$\psi_{{{j + 1}}}$" for j in range(number)]
    names = []
    for degree in range(basis.degree + 1):
        for factors in itertools.combinations_with_replacement(CHANNEL_SYMBOLS[: basis.in_channels], degree):
            powers = [(f, factors.count(f)) for f in CHANNEL_SYMBOLS if f in factors]
            names.append(" ".join(f if n == 1 else f"{f}^{{{n}}}" for f, n in powers))
    return [f"${name}$" if name else "1" for name in names]


def frame(axis: Axes) -> None:
    """Style the axes: two thin spines, small ticks."""
    axis.tick_params(colors=INK, labelsize=7.5, width=0.6, length=2.5)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_linewidth(0.6)
        spine.set_color(INK)
