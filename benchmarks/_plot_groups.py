# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Plots of groups of numbers: every number as a point, with mean and standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, LINE, MOST_COLUMNS = 5.2, 0.32, 3  # of a panel and of a group in it, inches; panels in a row
POINTS, MEAN = "tab:blue", "tab:red"


def groups(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> list[str]:
    """Write the picture.

    Args:
        panels: title of each panel, and in it the numbers of each group by its name, first one on top.
        path: its suffix determines the format.

    Returns:
        Titles of the panels; if empty, nothing is written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {title: members for title, members in panels.items() if any(members.values())}
    if not shown:
        return []
    columns = min(MOST_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    height = 1.2 + LINE * max(len(members) for members in shown.values())
    figure = Figure(figsize=(WIDTH * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (title, members) in zip(axes, shown.items()):
        panel(ax, members)
        ax.set_title(title)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    figure.savefig(path, dpi=150)
    return list(shown)


def panel(ax: Axes, members: Mapping[str, Sequence[float]]) -> None:
    """A line for each group that has numbers."""
    filled = {name: list(numbers) for name, numbers in members.items() if numbers}
    for place, numbers in enumerate(filled.values()):
        ax.scatter(numbers, [place] * len(numbers), color=POINTS, alpha=0.5, s=18)
        spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
        ax.errorbar(statistics.fmean(numbers), place, xerr=spread, fmt="d", color=MEAN, capsize=3, markersize=5)
    ax.set_yticks(range(len(filled)), list(filled))
    ax.set_ylim(len(filled) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.grid(alpha=0.3, axis="x")
