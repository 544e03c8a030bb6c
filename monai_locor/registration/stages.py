# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One stage of a registration: its steps, undoing, record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from .engine import RegistrationEngine
from .graph import stepper
from .history import stage_record
from .schedule import Stage

__all__ = ["FINAL_STEPS", "record_stage", "run_stage", "transform_state", "undo_stages"]

logger = logging.getLogger(__name__)

FINAL_STEPS = 5  # number of steps averaged for the final loss of a stage
MAX_LOSS_INCREASE = 0.02  # relative; the random window shifts change the loss by up to this


def run_stage(engine: RegistrationEngine, stage: Stage, update: Callable[[], object]) -> None:
    """Run a stage and record it in the history of the engine.

    Args:
        engine: advanced to the end of the stage.
        stage: the next stage.
        update: called after each step.
    """
    start, values, undone = time.perf_counter(), [], False
    try:
        engine.enter(stage)
        before = transform_state(engine)
        step = stepper(engine)
        for _ in range(stage.iterations):
            values.append(torch.stack(step()))
            update()
        if engine.config.undo_worse:
            undone = _undo_if_worse(engine.transform_parameters(), before, torch.stack(values))
    finally:
        if values:
            failed, seconds = engine.failed_steps(), time.perf_counter() - start
            record = stage_record(stage, torch.stack(values), seconds, engine.guides.names, failed=failed, undone=undone)
            engine.history.append(record)


def record_stage(
    engine: RegistrationEngine, stage: Stage, before: Sequence[torch.Tensor], values: torch.Tensor, seconds: float, failed: int
) -> None:
    """End a stage whose steps were run elsewhere: undo it if the loss increased, and record it in the history.

    Args:
        engine: with the parameters of the last step.
        stage: its settings.
        before: :func:`transform_state` before the first step.
        values: see :func:`.history.stage_record`.
        seconds: time of the stage.
        failed: number of steps that were undone.
    """
    undone = engine.config.undo_worse and _undo_if_worse(engine.transform_parameters(), before, values)
    engine.history.append(stage_record(stage, values, seconds, failed=failed, undone=undone))


def transform_state(engine: RegistrationEngine) -> list[torch.Tensor]:
    """Return copies of the parameters of the transform."""
    return [p.detach().clone() for p in engine.transform_parameters()]


@torch.no_grad()
def undo_stages(engine: RegistrationEngine, before: Sequence[torch.Tensor]) -> None:
    """Restore the :func:`transform_state` before all stages so far, which are affine, and record them as undone."""
    for parameter, value in zip(engine.transform_parameters(), before, strict=True):
        parameter.copy_(value)
    for record in engine.history:
        record["undone"] = True


@torch.no_grad()
def _undo_if_worse(parameters: Sequence[nn.Parameter], before: Sequence[torch.Tensor], values: torch.Tensor) -> bool:
    """Restore the state before a stage if the loss increased; return whether it did.

    Near a perfect fit the gradient is only noise, but the optimizer's steps do not become shorter.
    """
    loss = values.sum(1)
    first, last = loss[0], loss[-FINAL_STEPS:].nanmean()
    size = values[0, :2].sum().abs() + values[0, 2:].sum()  # similarity and guides may cancel
    worse = bool(last > first + MAX_LOSS_INCREASE * size)
    if worse:
        logger.warning("a stage increased the loss from %.3f to %.3f and was undone", first, last)
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    return worse
