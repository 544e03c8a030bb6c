# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The search: run trials, then repeat the best of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..errors import InputError
from .cases import Case
from .pool import Pool
from .results import Finalist, Objective, Trial
from .runs import Job, Run
from .samplers import import_optuna
from .space import SearchSpace
from .study import distributions, requeue

if TYPE_CHECKING:
    import optuna

__all__ = ["REPEAT_SEED", "Search"]

logger = logging.getLogger(__name__)

REPEAT_SEED = 10**6  # seed offset of the repetitions, above the seeds of all trials


@dataclass
class Search:
    """A study and the means to continue it.

    Args:
        study: Optuna study, including its sampler.
        space: search space.
        cases: cases to register.
        objective: objective to minimize.
        pool: pool of worker processes.
        seed: seed of the search.
        sampler: name of the sampler, stored with each trial.
        progress: whether to show a progress bar.
    """

    study: optuna.Study
    space: SearchSpace
    cases: Sequence[Case]
    objective: Objective
    pool: Pool
    seed: int = 0
    sampler: str = ""
    progress: bool = False
    _open: dict[int, _Open] = field(default_factory=dict)

    def trials(self) -> tuple[Trial, ...]:
        """All completed trials."""
        complete = import_optuna().trial.TrialState.COMPLETE
        return tuple(_trial(t) for t in self.study.get_trials(deepcopy=False, states=[complete]))

    def search(self, trials: int, seconds: float | None = None) -> None:
        """Run trials until the study has ``trials`` of them, or until ``seconds`` have passed (at least one trial runs).

        Raises:
            InputError: if all registrations of the first trial fail.
        """
        done, start = len(self.trials()), time.monotonic()
        waiting = import_optuna().trial.TrialState.WAITING
        if not done and not self.study.get_trials(deepcopy=False, states=[waiting]):
            values = self.space.of_base()
            whole = len(values) == len(self.space.parameters)  # otherwise the sampler draws the missing ones
            self.study.enqueue_trial(values, user_attrs={"base": whole})

        def more() -> bool:
            late = seconds is not None and time.monotonic() - start > seconds
            return done + len(self._open) < trials and not (late and done + len(self._open) > 0)

        running: dict[Future[Run], int] = {}
        with tqdm(total=trials, initial=done, disable=not self.progress, desc="trials") as bar:
            try:
                while running or more():
                    while len(running) < self.pool.size and more():
                        running |= self._begin()
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        if self._take(running.pop(future), future.result()):
                            done += 1
                            bar.update()
            finally:
                self._give_up()

    def _begin(self) -> dict[Future[Run], int]:
        """Start a trial: submit a job for each case."""
        trial = self.study.ask(distributions(self.space))
        self._open[trial.number] = opened = _Open(trial, time.monotonic())
        settings = self.space.settings(trial.params).to_dict()
        found: dict[Future[Run], int] = {}
        for case in self.cases:
            found[self.pool.submit(Job(str(case.folder), settings, self.seed + trial.number))] = trial.number
        opened.left = len(found)
        return found

    def _take(self, number: int, run: Run) -> bool:
        """Record a finished run. Returns whether its trial is complete."""
        opened = self._open[number]
        opened.runs.append(run)
        if run.problem:
            logger.warning("trial %d, %s: failed, scores as zero displacement: %s", number, run.case, run.problem)
        if len(opened.runs) < opened.left:
            return False
        if all(r.problem for r in opened.runs) and not self.trials():
            raise InputError(f"all registrations of the first trial failed; first error: {opened.runs[0].problem}")
        order = [case.name for case in self.cases]
        runs = sorted(opened.runs, key=lambda r: order.index(r.case))
        value = self.objective(runs)
        opened.trial.set_user_attr("runs", [r.to_dict() for r in runs])
        opened.trial.set_user_attr("sampler", self.sampler)
        opened.trial.set_user_attr("seconds", round(time.monotonic() - opened.start, 3))
        self.study.tell(opened.trial, value)
        del self._open[number]
        logger.info("trial %d: %.4g with %s", number, value, opened.trial.params)
        return True

    def _give_up(self) -> None:
        """Put unfinished trials back in the queue for the next search."""
        for number, opened in self._open.items():
            requeue(self.study, number, opened.trial.params, opened.trial.user_attrs)
        self._open.clear()

    def repeat(self, candidates: Sequence[Finalist], repeats: int) -> tuple[Finalist, ...]:
        """Repeat candidates with other seeds, skipping repetitions already in the study. Returns lowest mean first."""
        todo = [(c.trial, r) for r in range(repeats) for c in candidates if _key(c.trial, r) not in self.study.user_attrs]
        groups: dict[str, list[Future[Run]]] = {}
        for trial, r in todo:
            settings = self.space.settings(trial.values).to_dict()
            jobs = [Job(str(case.folder), settings, self.seed + REPEAT_SEED + r) for case in self.cases]
            groups[_key(trial, r)] = [self.pool.submit(job) for job in jobs]
        for key, futures in tqdm(groups.items(), disable=not self.progress, desc="repetitions of the best"):
            self.study.set_user_attr(key, [future.result().to_dict() for future in futures])
        known = self.study.user_attrs
        finalists = []
        for c in candidates:
            runs = [tuple(Run.of(values) for values in known[_key(c.trial, r)]) for r in range(repeats)]
            finalists.append(Finalist(c.trial, c.expected, tuple(runs), tuple(self.objective(group) for group in runs)))
        return tuple(sorted(finalists, key=lambda f: f.mean))


@dataclass
class _Open:
    """A trial with unfinished jobs."""

    trial: optuna.Trial
    start: float
    left: int = 0
    runs: list[Run] = field(default_factory=list)


def _key(trial: Trial, repetition: int) -> str:
    return f"repetition {repetition} of trial {trial.number}"


def _trial(frozen: Any) -> Trial:
    stored = frozen.user_attrs
    runs = tuple(Run.of(values) for values in stored["runs"])
    return Trial(frozen.number, dict(frozen.params), frozen.value, runs, stored.get("base", False), stored.get("sampler", ""))
