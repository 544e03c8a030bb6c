# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A second try of an engine's affine stages, where a search finds that they may have gone astray."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from .start.search import better_start, second_is_better

if TYPE_CHECKING:
    from .engine import RegistrationEngine
    from .schedule import Stage

__all__ = ["try_another_start"]

logger = logging.getLogger(__name__)


def try_another_start(engine: RegistrationEngine, stages: Sequence[Stage], bar: tqdm) -> None:
    """Go through the affine stages again if a search finds another start, and keep the better result.

    Args:
        engine: that has gone through these stages.
        stages: the affine ones.
        bar: of the progress.
    """
    first, initial = engine.matrix(), engine.initial
    images = engine.whole
    scaling = engine.config.transform != "rigid"
    start = _agreed(engine, lambda: better_start(*images, first, initial, scaling), first.shape)
    if start is None:
        return
    logger.info("going through the affine stages again from another start")
    names = ("affine", "losses", "history", "fixed", "moving", "velocity")
    kept = {name: getattr(engine, name) for name in names}
    better = None
    try:
        engine.begin(start)
        bar.total += sum(s.iterations for s in stages)
        engine.go_through(stages, bar)
        ends = _end(kept["history"]), _end(engine.history)
        affines = first, engine.matrix()
        better = _agreed(engine, lambda: np.ones(1) if second_is_better(*images, affines, ends, initial, start) else None, (1,))
    finally:  # where it is interrupted, the first one is the better one that is known
        if better is None:
            for name, value in kept.items():
                setattr(engine, name, value)
    if better is not None:
        logger.warning("the first affine was given up for one from another start")


def _agreed(engine: RegistrationEngine, decide: Callable[[], np.ndarray | None], shape: tuple[int, ...]) -> np.ndarray | None:
    """What ``decide`` returns; two processes take the answer of the first."""
    found = decide() if 0 in engine.directions else None
    if engine.exchange is None:
        return found
    told = torch.zeros(shape, dtype=torch.float64, device="cpu")
    if found is not None:
        told += torch.from_numpy(found)
    engine.exchange([told])
    return told.numpy() if told.any() else None


def _end(history: Sequence[Mapping[str, Any]]) -> float:
    """Mean of the last losses; those of two runs of the same stages can be compared."""
    last = [math.nan if v is None else v for v in history[-1]["loss"][-5:]]
    return sum(last) / len(last)
