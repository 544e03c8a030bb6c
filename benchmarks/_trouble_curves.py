# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""How well single measures tell wrong from right results of `trouble.py`: ROC curves, and what the limits do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _tables import markdown
from _trouble_tables import truth_of
from _verdict_tables import area, count

from monai_locor.quality import Thresholds
from monai_locor.quality.thresholds import LOWER_IS_WORSE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTTED = ("far_contrast", "near_contrast", "nmi_shift_ratio", "rival_lead", "mirror_lead", "stretch", "shear_degrees")
Lines = Sequence[Mapping[str, Any]]


def badness(lines: Lines, measure: str) -> np.ndarray:
    """Values of a measure, with a sign such that higher is worse, ``(N,)``; lines without a value are left out."""
    sign = -1 if measure in LOWER_IS_WORSE else 1
    found = [line["measures"].get(measure) for line in lines if line.get("measures")]
    return np.array([sign * value for value in found if value is not None])


def split(lines: Lines) -> tuple[Lines, Lines]:
    """The right and the wrong results."""
    groups = tuple([line for line in lines if truth_of(line) == kind] for kind in ("right", "wrong"))
    return groups[0], groups[1]


def curve(right: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of right and of wrong results beyond a limit, for every limit that makes a difference, from 0 to 1."""
    limits = np.concatenate(([math.inf], np.unique(np.concatenate((right, wrong)))[::-1], [-math.inf]))
    shares = [(values[None] > limits[:, None]).mean(1) for values in (right, wrong)]
    return shares[0], shares[1]


def shares_beyond(groups: Sequence[Lines], measure: str, limit: float | None) -> tuple[float, ...] | None:
    """A limit, and the share of each group that is worse; None without a limit."""
    if limit is None:
        return None
    signed = -limit if measure in LOWER_IS_WORSE else limit
    return limit, *(float((badness(group, measure) > signed).mean()) for group in groups)


def by_measure(lines: Lines, limits: Thresholds) -> str:
    """For every measure with a limit: area under the ROC curve, and shares of right and wrong results beyond the limits."""
    groups = split([line for line in lines if line.get("measures")])  # a refused pair has none
    rows = []
    for name in (item.name for item in dataclasses.fields(Thresholds)):
        surface = area(*groups, name)
        if not math.isnan(surface):
            beyond = [shares_beyond(groups, name, limit) for limit in getattr(limits, name)]
            cells = ["" if x is None else f"{x[0]:g}: {100 * x[1]:.1f} / {100 * x[2]:.1f}" for x in beyond]
            rows.append([name, f"{surface if name in LOWER_IS_WORSE else 1 - surface:.3f}", *cells])
    head = ["measure", "area under the ROC curve", "WARN limit: % of right / wrong", "FAIL limit: % of right / wrong"]
    return markdown(head, rows)


def plot(halves: Mapping[str, Lines], limits: Thresholds, path: Path) -> None:
    """Draw the ROC curves of some measures, one panel per group of lines, with the limits and the verdict as points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(halves), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, (title, lines) in zip(figure.subplots(1, len(halves), squeeze=False)[0], halves.items()):
        _panel(ax, *split(lines), limits)
        ax.set(title=title, xlabel="right results beyond the limit", ylabel="wrong results beyond the limit")
    figure.savefig(path, dpi=110)


def _panel(ax: Axes, right: Lines, wrong: Lines, limits: Thresholds) -> None:
    for name in PLOTTED:
        (drawn,) = ax.plot(*curve(badness(right, name), badness(wrong, name)), label=name, linewidth=1.2)
        for limit, marker in zip(getattr(limits, name), "os"):
            shares = shares_beyond((right, wrong), name, limit)
            if shares is not None:
                ax.plot(*shares[1:], marker, color=drawn.get_color(), markersize=5)
    for status, marker, text in (("FAIL", "X", "verdict FAIL"), ("PASS", "P", "verdict not PASS")):
        shares = [count(part, status) / max(len(part), 1) for part in (right, wrong)]
        place = [1 - share for share in shares] if status == "PASS" else shares
        ax.plot(*place, marker, color="black", markersize=9, label=text, linestyle="none")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", loc="lower right")
