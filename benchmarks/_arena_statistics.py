# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Means with bootstrap intervals and paired comparisons of methods over cases.

The number that all kinds of cases share is the error left: the error after registration divided by that of zero displacement,
where the error of a Dice coefficient is one minus it. A failed run counts as zero displacement, so its error left is one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _compare import Measure, Method, chance, values

LEFT = Measure("left", "error left", True)
MEASURES = {  # key: measure, key of its value without registration
    "tre_mm": (Measure("tre_mm", "TRE mean, mm", True, ".2f"), "tre_before_mm"),
    "dice": (Measure("dice", "Dice", False), "dice_before"),
    "landmark_mm": (Measure("landmark_mm", "landmark error, median, pixels", True, ".1f"), "landmark_before_mm"),
}
SPREADS = {  # key of a measure: a second measure of the same kind of cases
    "tre_mm": Measure("tre_p95_mm", "95 %, mm", True, ".2f"),
    "dice": Measure("hd95_mm", "HD 95 %, mm", True, ".2f"),
    "landmark_mm": Measure("landmark_p95_mm", "95 %, pixels", True, ".1f"),
}
MIN_ERROR_LEFT = 1e-6  # its logarithm is taken
MIN_CASES_WILCOXON = 6  # with fewer, no result can be significant at 5 %
Values = Mapping[str, Sequence[float]]  # case: one number for each seed


@dataclass(frozen=True)
class Bootstrap:
    """Number of samples and seed."""

    samples: int = 10000
    seed: int = 0

    def interval(self, numbers: Values, geometric: bool = False) -> tuple[float, float] | None:
        """95 % interval of the mean over cases of the medians over seeds; None for one case.

        Cases are drawn with replacement, then seeds within each case.

        Args:
            numbers: of each case.
            geometric: of the geometric instead of the arithmetic mean.
        """
        if len(numbers) < 2:
            return None
        random = np.random.default_rng(self.seed)
        drawn = np.empty((self.samples, len(numbers)))
        for place, own in enumerate(numbers.values()):
            data = np.asarray(own, dtype=float)
            seeds = random.integers(len(data), size=(self.samples, len(data)))
            drawn[:, place] = np.median(data[seeds], axis=1)
        drawn = np.log(np.maximum(drawn, MIN_ERROR_LEFT)) if geometric else drawn
        cases = random.integers(len(numbers), size=drawn.shape)
        means = np.take_along_axis(drawn, cases, axis=1).mean(axis=1)
        low, high = np.percentile(np.exp(means) if geometric else means, [2.5, 97.5])
        return float(low), float(high)


def error_left(run: Mapping[str, Any], nothing: Mapping[str, Any], key: str) -> float | None:
    """Error after registration divided by that of zero displacement; None if the run or the case lacks the measure.

    Args:
        run: of any method.
        nothing: the score of zero displacement of its case.
        key: of the measure, in `MEASURES`.
    """
    if key not in run or key not in nothing:
        return None
    after, before = (run[key], nothing[key]) if MEASURES[key][0].lower_is_better else (1 - run[key], 1 - nothing[key])
    return after / before if before > 0 else None


def with_error_left(runs: Any, nothing: Mapping[str, Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """The runs with their error left, where it is defined."""
    found = []
    for run in runs:
        left = error_left(run, nothing.get(run["case"], {}), key)
        found.append({**run, **({} if left is None else {"left": left})})
    return found


def errors_left(runs: Any, nothing: Mapping[str, Mapping[str, Any]], cases: Sequence[str], key: str) -> dict[Method, Values]:
    """Error left of each method on some cases with the same measure, one number for each seed."""
    own = with_error_left([run for run in runs if run["case"] in cases], nothing, key)
    before = {case: {"left": 1.0} for case in cases if key in nothing.get(case, {})}
    return values(own, before, LEFT)


def medians(numbers: Values) -> dict[str, float]:
    """Median over the seeds of each case."""
    return {case: statistics.median(own) for case, own in numbers.items()}


def geometric_mean(numbers: Sequence[float]) -> float:
    """Geometric mean; an error of zero counts as `MIN_ERROR_LEFT`."""
    return math.exp(statistics.fmean(math.log(max(number, MIN_ERROR_LEFT)) for number in numbers))


def paired(numbers: Values, reference: Values, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Comparison of errors left on the common cases; None without any.

    Returns:
        the geometric mean of the ratios to the reference, its 95 % interval by a bootstrap over the cases, and, of at least
        `MIN_CASES_WILCOXON` cases, the two-sided p-value of Wilcoxon's signed-rank test of the logarithms.
    """
    ours, theirs = medians(reference), medians(numbers)
    common = [case for case in theirs if case in ours]
    if not common:
        return None
    logs = [tuple(math.log(max(side[case], MIN_ERROR_LEFT)) for side in (theirs, ours)) for case in common]
    ratios = {case: [math.exp(a - b)] for case, (a, b) in zip(common, logs)}
    found = {"common": len(common), "ratio": geometric_mean([ratio for (ratio,) in ratios.values()])}
    found["interval"] = bootstrap.interval(ratios, geometric=True)
    return found | ({"p": chance(logs)} if len(common) >= MIN_CASES_WILCOXON else {})


def holm(chances: Sequence[float]) -> list[float]:
    """P-values corrected for the number of comparisons by Holm's method."""
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    corrected, highest = [1.0] * len(chances), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = highest
    return corrected
