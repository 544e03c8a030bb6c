# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""How a registration is fitted into the memory of its device: smaller slabs, then a coarser finest level.

The plan is made before the optimization. If memory runs out in spite of it, the registration is repeated with the next plans.
It never moves to another device.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..errors import InputError, one_line
from ..free_memory import gibibytes
from .config import RegistrationConfig
from .memory import MemoryNeed, RunShape, predicted_memory

__all__ = ["MemoryPlan", "is_out_of_memory", "memory_plans", "plans_within", "with_retries"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_RETRIES = 2  # smaller slabs, then a coarser level
ALLOCATION_ERRORS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")


@dataclass(frozen=True)
class MemoryPlan:
    """One way to run a registration, and its predicted memory.

    Attributes:
        config: settings, with the finest stages left out where memory is short.
        thrifty: see :class:`.start.start.Start`.
        need: predicted memory.
        budget: memory that was available, bytes; None if it is unknown.
    """

    config: RegistrationConfig
    thrifty: bool
    need: MemoryNeed
    budget: int | None = None

    @property
    def finest(self) -> float:
        """Sample distance of the finest stage, in units of the smallest voxel side; infinite without stages."""
        return min((stage.factor for part in self.config.schedule for stage in part), default=math.inf)

    @property
    def way(self) -> str:
        """The plan in words."""
        return f"smaller slabs, samples {self.finest:g} voxels apart in the finest level"


def memory_plans(shape: RunShape, config: RegistrationConfig) -> list[MemoryPlan]:
    """Return the plans for a registration: as set, with smaller slabs, and without one fine level after the other.

    Args:
        shape: sizes of the images.
        config: settings.
    """
    plans = [MemoryPlan(config, thrifty, predicted_memory(shape, config, thrifty)) for thrifty in (False, True)]
    for factor in sorted({stage.factor for stage in config.stages})[1:]:
        coarser = dataclasses.replace(config, stages=tuple(s for s in config.stages if s.factor >= factor))
        if sum(map(len, coarser.schedule)):
            plans.append(MemoryPlan(coarser, True, predicted_memory(shape, coarser, True)))
    return plans


def plans_within(shape: RunShape, config: RegistrationConfig, available: int | None) -> list[MemoryPlan]:
    """Return the first plan whose predicted memory is available, and those after it.

    Args:
        shape: sizes of the images.
        config: settings; their ``memory``, if any, is the limit.
        available: free memory of the device, bytes; None if it is unknown.

    Raises:
        InputError: if there is none.
    """
    budget = available if config.memory is None else config.memory
    plans = [dataclasses.replace(plan, budget=budget) for plan in memory_plans(shape, config)]
    fits = [budget is None or plan.need.peak <= budget for plan in plans]
    if budget is None or fits[0]:
        return plans
    known = f"{gibibytes(budget)} are {'available' if config.memory is None else 'allowed by the setting memory'}"
    needed = gibibytes(plans[1].need.peak)
    if not any(fits):
        least = gibibytes(min(plan.need.peak for plan in plans))
        remedy = "free memory" if config.memory is None else "raise the limit"
        raise InputError(
            f"not enough memory: the registration needs {needed}, and {least} even at its coarsest level; {known}. Crop the "
            f"images, resample them to larger voxels, register them in blocks (--blocks), or {remedy}."
        )
    found = fits.index(True)
    if found == 1:
        logger.info("memory: %s needed, %s: smaller slabs, one direction after the other", gibibytes(plans[0].need.peak), known)
    else:
        text = (
            "memory: the finest level needs %s, %s: its samples are %g instead of %g voxels apart; the result is less precise "
            "than in blocks (--blocks)"
        )
        logger.warning(text, needed, known, plans[found].finest, plans[0].finest)
    return plans[found:]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_ERRORS)


def with_retries(plans: Sequence[MemoryPlan], attempt: Callable[[MemoryPlan], T]) -> T:
    """Run a registration; if memory runs out, again with smaller slabs, then without its finest level.

    Args:
        plans: the first attempt, and those after it.
        attempt: runs a plan.

    Raises:
        Exception: of the last attempt, or that has another reason.
    """
    for plan, following in itertools.pairwise(plans[: 1 + MAX_RETRIES]):
        try:
            return attempt(plan)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = one_line(error)
        # outside of the handler, which keeps the tensors of the failed attempt alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory (%s): repeating the registration with %s", reason, following.way)
    return attempt(plans[: 1 + MAX_RETRIES][-1])
