# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Replay of the steps of a stage as one CUDA graph, which takes the host one launch per step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..losses.base import PairLoss
from .channels import ChannelLosses

if TYPE_CHECKING:
    from .engine import RegistrationEngine

__all__ = ["RecordedWindows", "StepGraph", "obstacle", "stepper"]

logger = logging.getLogger(__name__)

WARMUP_STEPS = 2  # ordinary steps of a stage before one is recorded: they load kernels and fill caches

Step = Callable[[], tuple[torch.Tensor, torch.Tensor]]


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
    if engine.alternates:
        return "the steps are not all alike"
    for loss in engine.losses:
        if not isinstance(loss, (PairLoss, ChannelLosses)) or not all(isinstance(x, PairLoss) for x in _parts(loss)):
            return f"{type(loss).__name__} is not a similarity of this package"
    return ""


def _parts(loss: nn.Module) -> list[Any]:
    return list(loss.losses) if isinstance(loss, ChannelLosses) else [loss]


class RecordedWindows:
    """The random windows of all losses of a stage, in memory that stays in place.

    Args:
        engine: engine that has entered the stage.
    """

    def __init__(self, engine: RegistrationEngine) -> None:
        self.windows: list[tuple[Any, Any]] = []
        for k in engine.directions:
            reference = engine.levels[k].reference
            for loss in _parts(engine.losses[k]):
                static = loss.static_windows(tuple(reference.shape[2:]), reference.device, reference.dtype)
                if static is not None:
                    self.windows.append((loss, static))

    def draw(self) -> None:
        """Draw the windows of the next step, in the order of an ordinary one."""
        for _, static in self.windows:
            static.draw()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Context manager: the losses use these windows instead of drawing their own."""
        with contextlib.ExitStack() as stack:
            for loss, static in self.windows:
                stack.enter_context(loss.windows_from(static))
            yield


class StepGraph:
    """Performs the steps of a stage: a few ordinary ones, then one that is recorded, and replays of it.

    If recording fails, all steps are ordinary ones.

    Args:
        engine: engine on a CUDA device that has entered the stage, without an :func:`obstacle`.
    """

    def __init__(self, engine: RegistrationEngine) -> None:
        self.engine, self.windows = engine, RecordedWindows(engine)
        self.stream = torch.cuda.Stream(engine.device)
        self.graph: Any = None
        self.results: tuple[torch.Tensor, torch.Tensor] | None = None
        self.ordinary_steps, self.failed = 0, False

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Perform a step; return similarity and bending energy, which the next step may overwrite."""
        self.windows.draw()
        if self.graph is None and not self.failed and self.ordinary_steps >= WARMUP_STEPS:
            self._record()
        optimizer = self.engine.optimizer
        if optimizer is not None and optimizer.at_end:  # its table of rates is replaced by a longer one
            self.graph, self.failed = None, True
        if self.graph is None or self.results is None:
            return self._ordinary()
        self.graph.replay()
        if optimizer is not None:
            optimizer.steps_done += 1
        return self.results

    def _ordinary(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A step on the stream of the recording, as CUDA asks of those before it."""
        self.ordinary_steps += 1
        current = torch.cuda.current_stream(self.engine.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), self.windows.used():
            found = self.engine.step()
        current.wait_stream(self.stream)
        return found

    def _record(self) -> None:
        optimizer = self.engine.optimizer
        done = 0 if optimizer is None else optimizer.steps_done
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream), self.windows.used():
                self.results = self.engine.step()  # nothing is computed yet
            self.graph = graph
        except Exception as error:
            logger.debug("no CUDA graph: %s", error)
            self.failed = True
        if optimizer is not None:
            optimizer.steps_done = done
            optimizer.forget()
