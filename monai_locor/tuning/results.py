# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a search has found, as far as it has come."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..registration import RegistrationConfig
from .runs import Run
from .scores import Score
from .space import SearchSpace
from .surrogate import REFITS, Surrogate

__all__ = ["PRESET", "Finalist", "Objective", "Trial", "Tuning", "candidates", "fitted_surrogate"]

PRESET = "preset.json"


@dataclass(frozen=True)
class Objective:
    """From what runs measure to the one number that is made small.

    Args:
        score: which.
        before: case to what no displacement measures: what a failed run counts as.
    """

    score: Score
    before: dict[str, dict[str, float]]

    def of_run(self, run: Run) -> float:
        """Of one run."""
        before = self.before[run.case]
        return self.score.value(before if run.problem else run.measures, before)

    def __call__(self, runs: Sequence[Run]) -> float:
        """Mean over runs."""
        return statistics.fmean(self.of_run(run) for run in runs)

    @property
    def nothing(self) -> float:
        """Of no displacement at all."""
        return statistics.fmean(self.score.value(before, before) for before in self.before.values())


@dataclass(frozen=True)
class Trial:
    """Parameters that were tried.

    Args:
        number: in the study.
        values: of the parameters.
        value: the score.
        runs: one a case.
        base: whether they are those of the base settings.
        sampler: that proposed them.
    """

    number: int
    values: dict[str, float]
    value: float
    runs: tuple[Run, ...]
    base: bool = False
    sampler: str = ""

    @property
    def failed(self) -> bool:
        """Whether a run has failed."""
        return any(run.problem for run in self.runs)


@dataclass(frozen=True)
class Finalist:
    """A trial that was among the best and was run again.

    Args:
        trial: it.
        expected: the mean posterior of its score.
        repeats: the runs of each repetition, one a case.
        scores: of each repetition.
    """

    trial: Trial
    expected: float
    repeats: tuple[tuple[Run, ...], ...] = ()
    scores: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Over the repetitions; without any, what is expected."""
        return statistics.fmean(self.scores) if self.scores else self.expected

    @property
    def deviation(self) -> float:
        """Standard deviation over the repetitions."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def fitted_surrogate(space: SearchSpace, trials: Sequence[Trial], seed: int = 0) -> Surrogate:
    """What trials let expect."""
    points = np.array([space.unit(trial.values) for trial in trials])
    return Surrogate(points, np.array([trial.value for trial in trials]), REFITS, seed)


def candidates(space: SearchSpace, trials: Sequence[Trial], surrogate: Surrogate, count: int) -> list[Finalist]:
    """The trials of which the lowest score is to be expected, not run again yet; each set of parameters once."""
    points = np.array([space.unit(trial.values) for trial in trials])
    expected = surrogate.mean(points)
    different: dict[tuple[float, ...], Finalist] = {}
    for i in surrogate.order(points):
        different.setdefault(tuple(points[i]), Finalist(trials[i], float(expected[i])))
    return list(different.values())[:count]


@dataclass(frozen=True)
class Tuning:
    """A search.

    Args:
        folder: of its files.
        space: what was searched.
        objective: what was made small.
        trials: in the order of their numbers.
        seed: of the search. Trial i registers with seed ``seed + i``, repetition r with ``seed + 1000000 + r``.
        finalists: the best first, by their mean.
        surrogate: of all trials.
        about: what else there is to say: versions, machine, times.
    """

    folder: Path
    space: SearchSpace
    objective: Objective
    trials: tuple[Trial, ...]
    seed: int
    finalists: tuple[Finalist, ...]
    surrogate: Surrogate = field(compare=False, repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def best(self) -> Finalist:
        """The finalist of the lowest mean."""
        return self.finalists[0]

    @property
    def config(self) -> RegistrationConfig:
        """The settings that were found."""
        return self.space.settings(self.best.trial.values)

    @property
    def base(self) -> Trial | None:
        """The trial of the settings to start from; None where they lie beyond the bounds of the search."""
        return next((trial for trial in self.trials if trial.base), None)

    @property
    def start(self) -> float:
        """The score to beat: of the base settings, over their repetitions if there are any, or of no registration."""
        if self.base is None:
            return self.objective.nothing
        repeated = [finalist.mean for finalist in self.finalists if finalist.trial.base]
        return min(self.objective.nothing, *(repeated or [self.base.value]))

    @property
    def improved(self) -> bool:
        """Whether the settings that were found are better than those to start from, and than no registration."""
        return not self.best.trial.base and self.best.mean < self.start

    @property
    def preset(self) -> Path | None:
        """The file of these settings, for ``monai_locor.register(preset=...)``; None where they are no better than before."""
        return self.folder / PRESET if self.improved else None
