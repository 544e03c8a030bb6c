# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Small charts as SVG that follows the page's colors."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

__all__ = ["curve", "histogram"]

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22


def curve(values: Sequence[float | None], label: str) -> str:
    """A line over its steps, counted from 1; gaps where a value is missing.

    Args:
        label: what it is, for those who cannot see it.
    """
    y = np.array([np.nan if v is None else v for v in values], dtype=float)
    finite = y[np.isfinite(y)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.5
    low, high = low - pad, high + pad
    across = np.linspace(LEFT, WIDTH - RIGHT, len(y)) if len(y) > 1 else np.full(len(y), (LEFT + WIDTH - RIGHT) / 2)
    up = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
    runs, pen = [], False
    for px, py in zip(across, up, strict=True):
        if np.isfinite(py):
            runs.append(f"{'L' if pen else 'M'}{px:.1f} {py:.1f}")
        pen = bool(np.isfinite(py))
    line = f'<path class="line" d="{"".join(runs)}"/>'
    return _frame(line, label, (1, len(y)), (low, high), ("1", str(len(y))))


def histogram(values: np.ndarray, low: float, high: float, label: str, bins: int = 60, mark: float = 1.0) -> str:
    """Bars over a range; what lies at zero or below is drawn as bad, and a line marks one value.

    Args:
        values: any shape; those beyond the range are counted in the outermost bars.
    """
    edges = np.linspace(low, high, bins + 1)
    counts = np.histogram(np.clip(values, low, high), edges)[0].astype(float)
    heights = counts / max(counts.max(), 1) * (HEIGHT - TOP - BOTTOM)
    width = (WIDTH - LEFT - RIGHT) / bins
    bars = []
    for i, h in enumerate(heights):
        if h > 0:
            kind = ' class="bad"' if edges[i + 1] <= 0 else ""
            bars.append(
                f'<rect{kind} x="{LEFT + i * width:.1f}" y="{HEIGHT - BOTTOM - max(h, 0.7):.1f}" '
                f'width="{max(width - 0.6, 0.4):.2f}" height="{max(h, 0.7):.1f}"/>'
            )
    x = LEFT + (mark - low) / (high - low) * (WIDTH - LEFT - RIGHT)
    line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
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
    """Axes with their ends written beside them."""
    left, right = ends or (f"{across[0]:.2g}", f"{across[1]:.2g}")
    bottom = HEIGHT - BOTTOM
    marks = [
        f'<text x="{LEFT - 5}" y="{TOP + 8}" text-anchor="end">{up[1]:.3g}{unit}</text>',
        f'<text x="{LEFT - 5}" y="{bottom}" text-anchor="end">{up[0]:.3g}{unit}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{left}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{right}</text>',
    ]
    axes = f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>'
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{axes}{content}{''.join(marks)}</svg>"
    )
