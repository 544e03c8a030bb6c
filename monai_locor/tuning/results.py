# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Results of a search: trials, finalists and the settings that won."""

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
from .surrogate import NUM_REFITS, Surrogate

__all__ = ["PRESET", "Finalist", "Objective", "Trial", "Tuning", "candidates", "fitted_surrogate"]

PRESET = "preset.json"


@dataclass(frozen=True)
class Objective:
    """The minimized number, computed from the measures of runs.

    Args:
        score: the score to minimize.
        before: measures of each case with zero displacement; a failed run gets these.
    """

    score: Score
    before: dict[str, dict[str, float]]

    def of_run(self, run: Run) -> float:
        """Score of one run."""
        before = self.before[run.case]
        return self.score.value(before if run.problem else run.measures, before)

    def __call__(self, runs: Sequence[Run]) -> float:
        """Mean score of several runs."""
        return statistics.fmean(self.of_run(run) for run in runs)

    @property
    def nothing(self) -> float:
        """Score of zero displacement."""
        return statistics.fmean(self.score.value(before, before) for before in self.before.values())


@dataclass(frozen=True)
class Trial:
    """A set of parameters with its runs.

    Args:
        number: number of the trial in the study.
        values: parameter values.
        value: score.
        runs: one run per case.
        base: whether these are the parameters of the base settings.
        sampler: name of the sampler that proposed them.
    """

    number: int
    values: dict[str, float]
    value: float
    runs: tuple[Run, ...]
    base: bool = False
    sampler: str = ""

    @property
    def failed(self) -> bool:
        """Whether any run failed."""
        return any(run.problem for run in self.runs)


@dataclass(frozen=True)
class Finalist:
    """One of the best trials, with its repetitions.

    Args:
        trial: the trial.
        expected: posterior mean of its score.
        repeats: runs of each repetition, one per case.
        scores: score of each repetition.
    """

    trial: Trial
    expected: float
    repeats: tuple[tuple[Run, ...], ...] = ()
    scores: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean score of the repetitions; without repetitions, the expected score."""
        return statistics.fmean(self.scores) if self.scores else self.expected

    @property
    def deviation(self) -> float:
        """Standard deviation of the scores of the repetitions."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def fitted_surrogate(space: SearchSpace, trials: Sequence[Trial], seed: int = 0) -> Surrogate:
    """Fit the surrogate to all trials."""
    points = np.array([space.unit(trial.values) for trial in trials])
    return Surrogate(points, np.array([trial.value for trial in trials]), NUM_REFITS, seed)


def candidates(space: SearchSpace, trials: Sequence[Trial], surrogate: Surrogate, count: int) -> list[Finalist]:
    """The trials with the lowest expected scores, without repetitions. Each set of parameters appears once."""
    points = np.array([space.unit(trial.values) for trial in trials])
    expected = surrogate.mean(points)
    different: dict[tuple[float, ...], Finalist] = {}
    for i in surrogate.order(points):
        different.setdefault(tuple(points[i]), Finalist(trials[i], float(expected[i])))
    return list(different.values())[:count]


@dataclass(frozen=True)
class Tuning:
    """The result of a search.

    Args:
        folder: folder of the output files.
        space: search space.
        objective: minimized objective.
        trials: all trials, ordered by number.
        seed: seed of the search. Trial i registers with seed ``seed + i``, repetition r with ``seed + 1000000 + r``.
        finalists: repeated trials, lowest mean first.
        surrogate: surrogate fitted to all trials.
        about: versions, machine and times.
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
        """The finalist with the lowest mean score."""
        return self.finalists[0]

    @property
    def config(self) -> RegistrationConfig:
        """Settings of the best finalist."""
        return self.space.settings(self.best.trial.values)

    @property
    def base(self) -> Trial | None:
        """Trial of the base settings; None if they are outside the search space."""
        return next((trial for trial in self.trials if trial.base), None)

    @property
    def start(self) -> float:
        """Score to beat: the lower of that without registration and that of the base settings (repetitions, if any)."""
        if self.base is None:
            return self.objective.nothing
        repeated = [finalist.mean for finalist in self.finalists if finalist.trial.base]
        return min(self.objective.nothing, *(repeated or [self.base.value]))

    @property
    def improved(self) -> bool:
        """Whether the best settings beat both the base settings and no registration."""
        return not self.best.trial.base and self.best.mean < self.start

    @property
    def preset(self) -> Path | None:
        """File with the best settings, for ``monai_locor.register(preset=...)``; None without improvement."""
        return self.folder / PRESET if self.improved else None
