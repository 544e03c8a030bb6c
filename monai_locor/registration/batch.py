# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The control flow of several registrations whose stages run together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from contextvars import Context, copy_context
from typing import Any

import torch
from tqdm import tqdm

from ..precision import optimized
from .batch_group import grouped, outline, partition, samples_of_step
from .batch_step import BatchStep
from .engine import RegistrationEngine
from .run import Run, Work
from .schedule import Stage
from .stages import record_stage, run_stage, transform_state

__all__ = ["BatchRun"]

MAX_SAMPLES_PER_STEP = {"cpu": 2**16, "cuda": 2**23}  # of all pairs; beyond, arithmetic takes longer than launches


class BatchRun:
    """Complete registrations of several pairs: engines that have to run the same stage share its steps.

    Each registration has the result that it has alone, except for rounding, which the optimization amplifies, see
    :func:`.batch_api.register_batch`: which pairs are in a batch does not matter otherwise. Engines that
    differ in the shapes of their levels, and those with a custom similarity, several channels or the setting
    ``composition="stages"``, run one after another.

    Args:
        runs: the registrations, all on one device.
        contexts: context of each registration, in which its warnings are logged; by default the current one for all.
    """

    def __init__(self, runs: Sequence[Run], contexts: Sequence[Context] | None = None) -> None:
        self.runs, self.device = list(runs), runs[0].device
        self.contexts = [copy_context() for _ in runs] if contexts is None else list(contexts)

    @optimized
    def complete(self, progress: bool = False) -> list[RegistrationEngine]:
        """Run all stages; return the engine with the result of each registration."""
        bar = tqdm(total=0, disable=not progress, desc="registrations", unit="it")
        with bar, contextlib.ExitStack() as stack:
            members = [_Member(run, context) for run, context in zip(self.runs, self.contexts, strict=True)]
            for member in members:
                stack.callback(member.close)
            for member in members:
                member.advance()
            while waiting := [member for member in members if member.work is not None]:
                bar.total = sum(run.steps for run in self.runs)
                for member in _run_next(waiting, bar.update):
                    member.advance()
        return [run.engine for run in self.runs]


class _Member:
    """One registration of a batch.

    Attributes:
        work: the engine and the stage that it has to run next; None at the end.
    """

    work: Work | None = None

    def __init__(self, run: Run, context: Context) -> None:
        self.run, self.context = run, context
        self._all: Generator[Work, None, None] = run.work()

    @property
    def engine(self) -> RegistrationEngine:
        """The engine that has to run a stage."""
        assert self.work is not None
        return self.work[0]

    @property
    def stage(self) -> Stage:
        """The stage."""
        assert self.work is not None
        return self.work[1]

    def advance(self) -> None:
        """Do everything up to the next stage."""
        self.work = self.do(next, self._all, None)

    def close(self) -> None:
        """Free the images."""
        self.do(self._all.close)

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the context of the registration."""
        return self.context.run(function, *args)


def _run_next(members: Sequence[_Member], update: Callable[[int], object]) -> list[_Member]:
    """Run the next stage of the registrations that are furthest behind; return these.

    The others wait for them, so that a registration that has repeated stages joins the others again.
    """
    least = min(len(member.engine.history) for member in members)
    behind = [member for member in members if len(member.engine.history) == least]
    for alike in grouped(behind, lambda member: outline(member.engine, member.stage)):
        for chunk in _chunks(alike):
            _run_alike(chunk, update)
    return behind


def _chunks(members: list[_Member]) -> list[list[_Member]]:
    """Divide registrations so that a step has at most :data:`MAX_SAMPLES_PER_STEP` samples."""
    most = MAX_SAMPLES_PER_STEP.get(members[0].engine.device.type, MAX_SAMPLES_PER_STEP["cpu"])
    count = max(1, most // max(samples_of_step(m.engine, m.stage) for m in members))
    return [members[i : i + count] for i in range(0, len(members), count)]


def _run_alike(members: Sequence[_Member], update: Callable[[int], object]) -> None:
    """Run the stage of registrations with equal :func:`.batch_group.outline`."""
    if len(members) == 1:
        members[0].do(run_stage, members[0].engine, members[0].stage, lambda: update(1))
        return
    for member in members:
        member.do(member.engine.enter, member.stage)
    owners = {id(member.engine): member for member in members}
    for engines in partition([member.engine for member in members]):
        part = [owners[id(engine)] for engine in engines]
        if len(part) == 1:  # enters the stage once more
            part[0].do(run_stage, part[0].engine, part[0].stage, lambda: update(1))
        else:
            _run_together(part, update)


def _run_together(members: Sequence[_Member], update: Callable[[int], object]) -> None:
    """Run the steps of the stage that the engines have entered, and record it in the history of each."""
    began, stage, count = time.perf_counter(), members[0].stage, len(members)
    before = [transform_state(member.engine) for member in members]
    batch, values = BatchStep([member.engine for member in members], stage.iterations), []
    for _ in range(stage.iterations):
        values.append(torch.stack(batch.step()))
        update(count)
    batch.finish()
    seconds = (time.perf_counter() - began) / count
    losses = torch.stack(values).unbind(2)
    for member, state, own, failed in zip(members, before, losses, batch.failed_steps(), strict=True):
        member.do(record_stage, member.engine, stage, state, own, seconds, failed)
