# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The control flow of a registration: stages, multi-start, restart with the inter-subject settings, undoing of stages."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..losses.compare import takes_mask
from ..precision import optimized
from .channels import single
from .correspondence import MAX_UNEXPLAINED_SHARE, checks_correspondence, median_unexplained_share
from .engine import RegistrationEngine
from .graph import stepper
from .history import stage_record
from .parallel import from_first
from .schedule import Stage
from .start.search import better_start, second_is_better

__all__ = ["Run", "optimize"]

logger = logging.getLogger(__name__)

COARSE_FACTOR = 4  # minimum sample distance of coarse deformable stages, in units of the smallest voxel side
FINAL_STEPS = 5  # number of steps averaged for the final loss of a stage
MAX_LOSS_INCREASE = 0.02  # relative; the random window shifts change the loss by up to this


def optimize(engine: RegistrationEngine, progress: bool = False) -> RegistrationEngine:
    """Run all stages of an engine's settings.

    Args:
        engine: newly constructed engine.
        progress: show a progress bar.

    Returns:
        the engine with the result: a new engine if a better start was found or the inter-subject settings were applied.
    """
    return Run(engine).complete(progress)


class Run:
    """One complete registration.

    Args:
        engine: newly constructed engine.

    Attributes:
        engine: engine with the current state, also after an interrupt.
        config: requested settings; those of ``engine`` differ after a restart with the inter-subject settings.
        unexplained_share: median over the local fits of the unexplained share of the target's variance, after the coarse
            stages; None if it was not measured.
    """

    def __init__(self, engine: RegistrationEngine) -> None:
        self.engine, self.config, self.exchange = engine, engine.config, engine.exchange
        self.start, self.device = engine.start, engine.device
        self.unexplained_share: float | None = None
        self.affine_stages, rest = engine.config.schedule
        self.coarse_stages = tuple(itertools.takewhile(_is_coarse, rest))
        self.fine_stages = rest[len(self.coarse_stages) :]
        loss = single(engine.losses[0])
        if self.start.masked and not takes_mask(loss):
            logger.warning("%s takes no mask: it is evaluated on the whole images", type(loss).__name__)

    @optimized
    def complete(self, progress: bool = False) -> RegistrationEngine:
        """Run all stages; if interrupted, :attr:`engine` has the current state."""
        first = _steps(self.affine_stages) + _steps(self.coarse_stages)
        total = first + _steps(self.fine_stages)
        try:
            with tqdm(total=total, disable=not progress, desc="registration", unit="it") as bar:
                self.run_coarse(bar)
                if self.coarse_stages and self._is_intersubject(bar):
                    self.engine.release()
                    self.engine = RegistrationEngine(self.start, self.config.for_intersubject, self.exchange)
                    bar.total += first
                    self.run_coarse(bar)
                _run_stages(self.engine, self.fine_stages, bar)
        finally:
            self.engine.release()
        return self.engine

    def run_coarse(self, bar: tqdm) -> None:
        """Run the affine stages, with multi-start, and the coarse deformable stages."""
        _run_stages(self.engine, self.affine_stages, bar)
        if self.affine_stages and self.start.search:
            self._try_another_start(bar)
        if self.start.predict is not None:
            self.engine.set_velocity(self.start.predict(self.engine.matrix()))
        _run_stages(self.engine, self.coarse_stages, bar)

    def _try_another_start(self, bar: tqdm) -> None:
        """Repeat the affine stages if the search finds another start, and keep the better result."""
        first, images, initial = self.engine, self.start.images, self.start.affine
        matrix, scaling = first.matrix(), self.config.transform != "rigid"
        none = np.zeros_like(matrix)  # sent if there is no other start

        def search() -> np.ndarray:
            found = better_start(*images, matrix, initial, scaling)
            return none if found is None else found

        start = from_first(self.exchange, search, matrix.shape)
        if not start.any():
            return
        logger.info("repeating the affine stages from another start")
        first.release()
        second = RegistrationEngine(dataclasses.replace(self.start, affine=start), first.config, self.exchange)
        bar.total += _steps(self.affine_stages)
        _run_stages(second, self.affine_stages, bar)
        losses = _final_loss(first.history), _final_loss(second.history)
        affines = matrix, second.matrix()

        def compare() -> np.ndarray:
            return np.array([second_is_better(*images, affines, losses, initial, start)], dtype=np.float64)

        if from_first(self.exchange, compare, (1,)).any():
            self.engine = second
            logger.warning("replaced the first affine by one from another start")

    def _is_intersubject(self, bar: tqdm) -> bool:
        """Whether the residuals after the coarse stages indicate an inter-subject pair; logged if so."""
        if not checks_correspondence(self.config):
            return False
        share = median_unexplained_share(self.engine)
        if share > MAX_UNEXPLAINED_SHARE and self.start.masked:  # residuals inside a mask are larger for any pair
            share = min(share, self._share_without_masks(bar))
        self.unexplained_share = share if math.isfinite(share) else None  # JSON has no NaN
        if not share > MAX_UNEXPLAINED_SHARE:
            return False
        logger.warning(
            "residuals indicate an inter-subject pair (half of the windows leave more than %.0f %% of the variance "
            "unexplained); restarting with the inter-subject settings (intersubject=never prevents this)",
            100 * share,
        )
        return True

    def _share_without_masks(self, bar: tqdm) -> float:
        """Return the unexplained share after the same stages without masks."""

        def measure() -> np.ndarray:
            if self.start.unmasked is None:
                return np.array([math.inf])
            logger.info("large residuals inside the masks: registering the whole images")
            start = dataclasses.replace(self.start, images=self.start.unmasked(), unmasked=None)
            other = Run(RegistrationEngine(start, self.config))
            bar.total += _steps(self.affine_stages) + _steps(self.coarse_stages)
            other.run_coarse(bar)
            return np.array([median_unexplained_share(other.engine)])

        return float(from_first(self.exchange, measure, (1,))[0])


def _is_coarse(stage: Stage) -> bool:
    return stage.spacing is not None and stage.factor >= COARSE_FACTOR


def _steps(stages: Sequence[Stage]) -> int:
    return sum(stage.iterations for stage in stages)


def _final_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean of the last losses, for comparing two runs of the same stages."""
    last = [math.nan if v is None else v for v in history[-1]["loss"][-FINAL_STEPS:]]
    return sum(last) / len(last)


def _run_stages(engine: RegistrationEngine, stages: Sequence[Stage], bar: tqdm) -> None:
    """Run stages and record them in the history of the engine."""
    for stage in stages:
        start, values = time.perf_counter(), []
        try:
            engine.enter(stage)
            parameters = engine.transform_parameters()
            before = [p.detach().clone() for p in parameters]
            step = stepper(engine)
            for _ in range(stage.iterations):
                values.append(torch.stack(step()))
                bar.update()
            if engine.config.undo_worse:
                _undo_if_worse(parameters, before, torch.stack(values))
        finally:
            if values:
                engine.history.append(stage_record(stage, torch.stack(values), time.perf_counter() - start))


@torch.no_grad()
def _undo_if_worse(parameters: Sequence[nn.Parameter], before: Sequence[torch.Tensor], values: torch.Tensor) -> None:
    """Restore the state before a stage if the loss increased.

    Near a perfect fit the gradient is only noise, but the optimizer's steps do not become shorter.
    """
    loss = values.sum(1)
    first, last = loss[0], loss[-FINAL_STEPS:].nanmean()
    if bool(last > first + MAX_LOSS_INCREASE * first.abs()):
        logger.warning("a stage increased the loss from %.3f to %.3f and was undone", first, last)
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
