# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Scatter plot of time against error: one panel per case, one labeled point per tool and preset.

python benchmarks/_plot.py tools.png numbers.json more.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = (("tre_mm", "TRE mean, mm"), ("dice", "Dice"))  # the first that all rows of a case have is plotted
WIDTH, HEIGHT, MOST_COLUMNS = 4.6, 3.6, 3  # of a panel, inches; panels in a row
OURS, THEIRS = "tab:red", "tab:blue"
SHIFTS = ((4, 5), (4, -12), (-4, 5), (-4, -12), (4, 16), (4, -23), (-4, 16), (-4, -23))  # of a name from its point, points


def scatter(rows: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """Write the picture.

    Args:
        rows: as `registration.medians` returns them; failed ones and cases without any measure are left out.
        path: its suffix determines the format.

    Returns:
        Names of the cases with a panel; if empty, nothing is written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases = panels(rows)
    if not cases:
        return []
    columns = min(MOST_COLUMNS, len(cases))
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, (name, (key, label, members)) in zip(axes, cases.items()):
        panel(ax, members, key)
        ax.set(title=name, xlabel="seconds", ylabel=label)
    for ax in axes[len(cases) :]:
        ax.set_axis_off()
    figure.canvas.draw()  # only now it is known where everything lies
    for ax, (key, _, members) in zip(axes, cases.values()):
        write_names(ax, members, key)
    figure.savefig(path, dpi=150)
    return list(cases)


def panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str, list[Mapping[str, Any]]]]:
    """For each case the key and name of its measure, and the rows, fastest first."""
    found = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        good = sorted((row for row in rows if row["case"] == case and not row["problem"]), key=lambda row: row["seconds"])
        for key, label in MEASURES:
            if good and all(key in row for row in good):
                found[case] = key, label, good
                break
    return found


def panel(ax: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """A point for each row."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    for row in rows:
        ax.scatter(row["seconds"], row[key], color=OURS if row["preset"] else THEIRS, zorder=2)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.2)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3, which="both")


def write_names(ax: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Label every point at the first nearby position without overlap."""
    taken: list[Any] = []
    for row in rows:
        color = OURS if row["preset"] else THEIRS
        for x, y in SHIFTS:
            side = "left" if x > 0 else "right"
            look = {"textcoords": "offset points", "ha": side, "fontsize": "small", "color": color}
            text = ax.annotate(name_of(row), (row["seconds"], row[key]), xytext=(x, y), **look)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken) or (x, y) == SHIFTS[-1]:
                taken.append(box)
                break
            text.remove()


def name_of(row: Mapping[str, Any]) -> str:
    """The tool, and its preset if it has any."""
    return " ".join(filter(None, (row["tool"], row["preset"])))


def main(arguments: Sequence[str] | None = None) -> None:
    """Plot one or more files of `registration.py --json`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("numbers", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    scatter([row for path in options.numbers for row in json.loads(path.read_text(encoding="utf-8"))["rows"]], options.picture)


if __name__ == "__main__":
    main()
