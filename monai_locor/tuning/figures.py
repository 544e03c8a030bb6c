# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Figures of a search: score history, parameter importance, slices through the surrogate, repeated finalists."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..report.pictures.figures import new_figure
from .parameters import Parameter
from .results import Tuning

__all__ = ["finalists_figure", "history_figure", "importance_figure", "slices_figure"]

BLUE, ORANGE, GRAY, RED = "#2b6ca3", "#d9730d", "#8a8a8a", "#b3261e"
DPI = 110


def _figure(path: Path, size: tuple[float, float], draw: Callable[[Any], None]) -> Path:
    figure, canvas = new_figure("white")
    figure.set_size_inches(*size)
    draw(figure)
    figure.set_layout_engine("tight")
    canvas.print_figure(str(path), dpi=DPI)
    return path


def history_figure(path: Path, tuning: Tuning) -> Path:
    """Score of each trial, the best score so far, and the score without registration."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        numbers, values = (np.array([getattr(t, name) for t in tuning.trials]) for name in ("number", "value"))
        failed = np.array([t.failed for t in tuning.trials])
        axes.plot(numbers[~failed], values[~failed], "o", color=BLUE, ms=4, label="trial")
        if failed.any():
            axes.plot(numbers[failed], values[failed], "x", color=RED, ms=6, label="trial with failed runs")
        axes.step(numbers, np.minimum.accumulate(values), where="post", color=ORANGE, label="best so far")
        finalists = [f.trial for f in tuning.finalists]
        axes.plot(
            [t.number for t in finalists], [t.value for t in finalists], "o", mfc="none", mec="black", ms=9, label="finalist"
        )
        base = [t for t in tuning.trials if t.base]
        if base:
            axes.axhline(base[0].value, color=GRAY, lw=1, ls="--", label="base settings")
        axes.axhline(tuning.objective.nothing, color=GRAY, lw=1, ls=":", label="without registration")
        axes.set(xlabel="trial", ylabel=tuning.objective.score.short)
        _log_if_wide(axes, [*values, tuning.objective.nothing])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

    return _figure(path, (8, 3.6), draw)


def importance_figure(path: Path, importances: Mapping[str, float]) -> Path:
    """Importance of each parameter for the score."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        names = list(importances)[::-1]
        bars = axes.barh(names, [importances[name] for name in names], color=BLUE)
        axes.bar_label(bars, fmt=" %.2f", fontsize=8)
        axes.set(xlabel="importance (fANOVA)", xlim=(0, 1.1 * max(1e-9, *importances.values())))

    return _figure(path, (6.4, 0.9 + 0.35 * len(importances)), draw)


def slices_figure(path: Path, tuning: Tuning) -> Path:
    """Score against each parameter, with the prediction of the Gaussian processes along a line through the best trial."""
    parameters = list(tuning.space.parameters.values())

    def draw(figure: Any) -> None:
        columns = min(3, len(parameters))
        rows = math.ceil(len(parameters) / columns)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, parameter in zip(grid.flat, parameters):
            _slice(axes, tuning, parameter)
        for axes in grid.flat[len(parameters) :]:
            axes.axis("off")
        figure.suptitle(
            "points: trials (later ones darker); star: best finalist, mean of its repetitions; line: prediction through it",
            fontsize=8,
        )
        for row in grid:
            row[0].set_ylabel(tuning.objective.score.short)

    return _figure(path, (3.6 * min(3, len(parameters)), 2.9 * math.ceil(len(parameters) / 3)), draw)


def _slice(axes: Any, tuning: Tuning, parameter: Parameter) -> None:
    trials, best = tuning.trials, tuning.best.trial
    x, y = [t.values[parameter.name] for t in trials], [t.value for t in trials]
    axes.scatter(x, y, c=[t.number for t in trials], cmap="Blues", vmin=-len(trials) / 2, s=16, edgecolor=GRAY, linewidth=0.4)
    place = list(tuning.space.parameters).index(parameter.name)
    points = np.tile(tuning.space.unit(best.values), (60, 1))
    points[:, place] = np.linspace(0, 1, 60)
    ends = (math.log(parameter.low), math.log(parameter.high)) if parameter.log else (parameter.low, parameter.high)
    line = ends[0] + (ends[1] - ends[0]) * points[:, place]
    axes.plot(np.exp(line) if parameter.log else line, tuning.surrogate.mean(points), color=ORANGE, lw=1.2)
    axes.plot(best.values[parameter.name], tuning.best.mean, "*", color=RED, ms=12)
    axes.set(xlabel=parameter.name)
    if parameter.log:
        axes.set_xscale("log")
    _log_if_wide(axes, y)


def finalists_figure(path: Path, tuning: Tuning) -> Path:
    """Scores of the repetitions, with the score of the trial and the predicted score."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, f in enumerate(tuning.finalists):
            names = ("repetition", "mean", "predicted", "original trial") if place == 0 else (None,) * 4
            axes.plot([place] * len(f.scores), f.scores, "o", color=BLUE, ms=5, alpha=0.7, label=names[0])
            axes.plot([place - 0.2, place + 0.2], [f.mean, f.mean], color=BLUE, lw=2, label=names[1])
            axes.plot(place, f.expected, "D", color=ORANGE, ms=6, mfc="none", label=names[2])
            axes.plot(place, f.trial.value, "x", color=RED, ms=7, label=names[3])
        numbers = [f"trial {f.trial.number}" for f in tuning.finalists]
        axes.set(xticks=range(len(numbers)), xticklabels=numbers, ylabel=tuning.objective.score.short)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

    return _figure(path, (7.2, 3.2), draw)


def _log_if_wide(axes: Any, values: Any) -> None:
    """Use a logarithmic axis if failed runs would compress the others."""
    low, high = min(values), max(values)
    if low > 0 and high > 8 * low:
        axes.set_yscale("log")
