# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Comparison of methods over cases: mean and spread, wins, and significance.

A method is a tool with a preset. A failed run counts as zero displacement, as in the paper; tools that are not installed are
omitted.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _peers import MISSING, PEERS
from _tables import markdown
from scipy.stats import wilcoxon

Method = tuple[str, str]  # tool, preset
Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Measure:
    """A number of a run by which methods are compared."""

    key: str
    heading: str
    lower_is_better: bool
    style: str = ".3f"

    def better(self, a: float, b: float) -> bool:
        """Return whether a is better than b."""
        return a < b if self.lower_is_better else a > b


MEASURES = (Measure("tre_mm", "TRE mean, mm", True), Measure("dice", "Dice", False))


def name_of(method: Method) -> str:
    """The tool, and its preset if it has any."""
    return " ".join(filter(None, method))


def is_missing(run: Mapping[str, Any]) -> bool:
    """Return whether the tool was not installed."""
    return run["tool"] in PEERS and run["problem"].startswith(MISSING)


def values(runs: Runs, nothing: Mapping[str, Mapping[str, Any]], measure: Measure) -> dict[Method, dict[str, list[float]]]:
    """Values of each method and case with the measure, one for each repeat.

    Args:
        runs: of all methods and cases.
        nothing: for each case, the score of zero displacement.
    """
    found: dict[Method, dict[str, list[float]]] = {}
    for run in runs:
        score = nothing.get(run["case"], {}) if run["problem"] else run
        if not is_missing(run) and measure.key in score:
            method = found.setdefault((run["tool"], run["preset"]), {})
            method.setdefault(run["case"], []).append(score[measure.key])
    return found


def _medians(runs: Runs, nothing: Mapping[str, Mapping[str, Any]], measure: Measure) -> dict[Method, dict[str, float]]:
    found = values(runs, nothing, measure)
    return {method: {case: statistics.median(v) for case, v in cases.items()} for method, cases in found.items()}


def medians_by_method(runs: Runs, nothing: Mapping[str, Mapping[str, Any]], measure: Measure) -> dict[str, list[float]]:
    """The medians over repeats of every case, by the name of the method."""
    return {name_of(method): list(cases.values()) for method, cases in _medians(runs, nothing, measure).items()}


def comparison(
    runs: Runs, nothing: Mapping[str, Mapping[str, Any]], measure: Measure, reference: Method
) -> list[dict[str, Any]]:
    """One row for each method: of the medians over repeats, the mean and standard deviation over cases.

    Further, the number of common cases where the reference is better, and the p-value of Wilcoxon's signed-rank
    test (two-sided).

    Args:
        reference: the method that the others are compared with.

    Returns:
        rows, best mean first; empty if the reference has no value.
    """
    middle = _medians(runs, nothing, measure)
    if reference not in middle:
        return []
    rows = []
    for method, cases in middle.items():
        row: dict[str, Any] = {"tool": method[0], "preset": method[1], "cases": len(cases)}
        row |= mean_and_deviation(cases.values())
        own = [run for run in runs if (run["tool"], run["preset"]) == method and run["case"] in cases]
        row |= {"failures": sum(bool(run["problem"]) for run in own), "runs": len(own)}
        if method != reference:
            pairs = [(middle[reference][case], cases[case]) for case in cases if case in middle[reference]]
            row |= {"common": len(pairs), "reference_better": sum(measure.better(a, b) for a, b in pairs), "p": chance(pairs)}
        rows.append(row)
    return sorted(rows, key=lambda row: row["mean"], reverse=not measure.lower_is_better)


def mean_and_deviation(numbers: Any) -> dict[str, float]:
    """Mean and, of two or more, their standard deviation."""
    numbers = list(numbers)
    deviation = {"deviation": statistics.stdev(numbers)} if len(numbers) > 1 else {}
    return {"mean": statistics.fmean(numbers)} | deviation


def chance(pairs: Sequence[tuple[float, float]]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; 1 where no pair differs."""
    differences = [a - b for a, b in pairs if a != b]
    return float(wilcoxon(differences).pvalue) if differences else 1.0


def plus_minus(row: Mapping[str, float], style: str = ".3f") -> str:
    """Mean and standard deviation as text."""
    mean = format(row["mean"], style)
    return f"{mean} ± {format(row['deviation'], style)}" if "deviation" in row else mean


def table(rows: Sequence[Mapping[str, Any]], measure: Measure, reference: Method) -> str:
    """Markdown of `comparison`."""
    name = name_of(reference)
    average = f"{measure.heading}: mean ± SD over cases"
    head = ["method", "cases N", average, f"cases where {name} is better", "p", "failed runs"]
    lines = []
    for row in rows:
        versus = [f"{row['reference_better']}/{row['common']}", format(row["p"], ".2g")] if "p" in row else ["", ""]
        failed = f"{row['failures']}/{row['runs']}"
        cells = [name_of((row["tool"], row["preset"])), str(row["cases"]), plus_minus(row, measure.style), *versus, failed]
        lines.append(cells)
    return markdown(head, lines)
