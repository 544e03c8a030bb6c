# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Replay of the steps of a stage as one CUDA graph, which takes the host one launch per step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..losses.base import PairLoss
from .channels import foreign, parts_of
from .engine import RegistrationEngine

__all__ = ["RecordedWindows", "StepGraph", "obstacle", "stepper"]

logger = logging.getLogger(__name__)

WARMUP_STEPS = 2  # ordinary steps of a stage before one is recorded: they load kernels and fill caches

Step = Callable[[], tuple[torch.Tensor, ...]]


def stepper(engine: RegistrationEngine) -> Step:
    """Return the function that performs the steps of the stage that an engine has entered.

    Its results are those of :meth:`.RegistrationEngine.step`, which it is where steps cannot be replayed. They may be
    overwritten by the next step.
    """
    reason = obstacle(engine)
    if reason:
        logger.debug("no CUDA graph: %s", reason)
        return engine.step
    return StepGraph(engine)


def obstacle(engine: RegistrationEngine) -> str:
    """Return why the steps of an engine cannot be replayed as a CUDA graph; empty if they can."""
    if engine.device.type != "cuda" or not torch.cuda.is_available():
        return f"the device is {engine.device}"
    if engine.exchange is not None:
        return "each direction has a process"
    loss = foreign(engine.losses)
    return "" if loss is None else f"{type(loss).__name__} is not a similarity of this package"


class RecordedWindows:
    """The random windows of all losses of a stage, in memory that stays in place.

    Args:
        engine: engine that has entered the stage.
    """

    def __init__(self, engine: RegistrationEngine) -> None:
        self.windows: list[tuple[int, Any, Any]] = []
        for k in engine.directions:
            reference = engine.levels[k].reference
            for loss in cast("list[PairLoss]", parts_of(engine.losses[k])):
                static = loss.static_windows(tuple(reference.shape[2:]), reference.device, reference.dtype)
                if static is not None:
                    self.windows.append((k, loss, static))

    def draw(self, directions: Sequence[int]) -> None:
        """Draw the windows of a step that evaluates some directions, in the order of an ordinary one."""
        for k, _, static in self.windows:
            if k in directions:
                static.draw()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Context manager: the losses use these windows instead of drawing their own."""
        with contextlib.ExitStack() as stack:
            for _, loss, static in self.windows:
                stack.enter_context(loss.windows_from(static))
            yield


@dataclass
class _Recording:
    """The steps that evaluate the same directions.

    Attributes:
        ordinary_steps: number of them that were not replayed.
        graph: the recorded one.
        results: what it returned; a replay overwrites them.
    """

    ordinary_steps: int = 0
    graph: Any = None
    results: tuple[torch.Tensor, ...] | None = None


class StepGraph:
    """Performs the steps of a stage: a few ordinary ones, then one that is recorded, and replays of it.

    Steps that evaluate one direction in turn are recorded for each. If recording fails, all steps are ordinary ones.

    Args:
        engine: engine on a CUDA device that has entered the stage, without an :func:`obstacle`.
    """

    def __init__(self, engine: RegistrationEngine) -> None:
        self.engine, self.windows = engine, RecordedWindows(engine)
        self.stream = torch.cuda.Stream(engine.device)
        self.recordings: dict[tuple[int, ...], _Recording] = {}
        self.failed = False

    @property
    def recorded(self) -> bool:
        """Whether a step was recorded."""
        return any(recording.graph is not None for recording in self.recordings.values())

    def __call__(self) -> tuple[torch.Tensor, ...]:
        """Perform a step; return the parts of the loss, which the next step may overwrite."""
        engine, directions = self.engine, self.engine.directions_of_step()
        self.windows.draw(directions)
        recording = self.recordings.setdefault(directions, _Recording())
        if engine.optimizer is not None and engine.optimizer.at_end:  # its table of rates is replaced by a longer one
            self.failed = True
        if recording.graph is None and not self.failed and recording.ordinary_steps >= WARMUP_STEPS:
            self._record(recording)
        if self.failed or recording.graph is None or recording.results is None:
            recording.ordinary_steps += 1
            return self._ordinary()
        recording.graph.replay()
        engine.recount(engine.step_number + 1)
        return recording.results

    def _ordinary(self) -> tuple[torch.Tensor, ...]:
        """A step on the stream of the recording, as CUDA asks of those before it."""
        current = torch.cuda.current_stream(self.engine.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), self.windows.used():
            found = self.engine.step()
        current.wait_stream(self.stream)
        return found

    def _record(self, recording: _Recording) -> None:
        engine, done = self.engine, self.engine.step_number
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream), self.windows.used():
                recording.results = engine.step()  # nothing is computed yet
            recording.graph = graph
        except Exception as error:  # ordinary steps work or raise it again
            logger.debug("no CUDA graph: %s", error)
            self.failed = True
        engine.recount(done)
        if engine.optimizer is not None:
            engine.optimizer.forget()
