# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Small SVG charts in the colors of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

__all__ = ["curve", "histogram"]

CHART_WIDTH, CHART_HEIGHT = 320, 150
LEFT_MARGIN, RIGHT_MARGIN, TOP_MARGIN, BOTTOM_MARGIN = 44, 8, 8, 22


def curve(values: Sequence[float | None], label: str) -> str:
    """Line chart over steps counted from 1, with gaps where a value is None.

    Args:
        values: of the line.
        label: description for screen readers.
    """
    y = np.array([np.nan if v is None else v for v in values], dtype=float)
    finite = y[np.isfinite(y)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.5
    low, high = low - pad, high + pad
    across = (
        np.linspace(LEFT_MARGIN, CHART_WIDTH - RIGHT_MARGIN, len(y))
        if len(y) > 1
        else np.full(len(y), (LEFT_MARGIN + CHART_WIDTH - RIGHT_MARGIN) / 2)
    )
    up = TOP_MARGIN + (high - y) / (high - low) * (CHART_HEIGHT - TOP_MARGIN - BOTTOM_MARGIN)
    runs, pen = [], False
    for px, py in zip(across, up, strict=True):
        if np.isfinite(py):
            runs.append(f"{'L' if pen else 'M'}{px:.1f} {py:.1f}")
        pen = bool(np.isfinite(py))
    line = f'<path class="line" d="{"".join(runs)}"/>'
    return _frame(line, label, (1, len(y)), (low, high), ("1", str(len(y))))


def histogram(values: np.ndarray, low: float, high: float, label: str, bins: int = 60, mark: float = 1.0) -> str:
    """Histogram over a range; bars at or below zero are highlighted, and a line marks one value.

    Args:
        values: any shape; values beyond the range are counted in the outermost bars.
        low, high: range.
        label: description for screen readers.
        bins: number of bars.
        mark: value of the line.
    """
    edges = np.linspace(low, high, bins + 1)
    counts = np.histogram(np.clip(values, low, high), edges)[0].astype(float)
    heights = counts / max(counts.max(), 1) * (CHART_HEIGHT - TOP_MARGIN - BOTTOM_MARGIN)
    width = (CHART_WIDTH - LEFT_MARGIN - RIGHT_MARGIN) / bins
    bars = []
    for i, h in enumerate(heights):
        if h > 0:
            kind = ' class="bad"' if edges[i + 1] <= 0 else ""
            bars.append(
                f'<rect{kind} x="{LEFT_MARGIN + i * width:.1f}" y="{CHART_HEIGHT - BOTTOM_MARGIN - max(h, 0.7):.1f}" '
                f'width="{max(width - 0.6, 0.4):.2f}" height="{max(h, 0.7):.1f}"/>'
            )
    x = LEFT_MARGIN + (mark - low) / (high - low) * (CHART_WIDTH - LEFT_MARGIN - RIGHT_MARGIN)
    line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP_MARGIN}" y2="{CHART_HEIGHT - BOTTOM_MARGIN}"/>'
    share = counts.max() / max(counts.sum(), 1)
    return _frame(f'<g class="bars">{"".join(bars)}</g>{line}', label, (low, high), (0, 100 * share), None, "%")


def _frame(
    content: str,
    label: str,
    across: tuple[float, float],
    up: tuple[float, float],
    ends: tuple[str, str] | None = None,
    unit: str = "",
) -> str:
    """Axes with their limits, around a chart."""
    left, right = ends or (f"{across[0]:.2g}", f"{across[1]:.2g}")
    bottom = CHART_HEIGHT - BOTTOM_MARGIN
    marks = [
        f'<text x="{LEFT_MARGIN - 5}" y="{TOP_MARGIN + 8}" text-anchor="end">{up[1]:.3g}{unit}</text>',
        f'<text x="{LEFT_MARGIN - 5}" y="{bottom}" text-anchor="end">{up[0]:.3g}{unit}</text>',
        f'<text x="{LEFT_MARGIN}" y="{CHART_HEIGHT - 6}">{left}</text>',
        f'<text x="{CHART_WIDTH - RIGHT_MARGIN}" y="{CHART_HEIGHT - 6}" text-anchor="end">{right}</text>',
    ]
    axes = f'<path class="axis" d="M{LEFT_MARGIN} {TOP_MARGIN}V{bottom}H{CHART_WIDTH - RIGHT_MARGIN}"/>'
    return (
        f'<svg class="chart" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{axes}{content}{''.join(marks)}</svg>"
    )
