# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The control flow of a registration: stages, multi-start, and the form of the fine stages."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from ..losses.compare import takes_mask
from ..precision import optimized
from .channels import single
from .correspondence import (
    checks_correspondence,
    has_logarithm,
    leaves_too_much,
    median_unexplained_share,
    relative_bending,
    use_form,
)
from .engine import RegistrationEngine
from .guides import GUIDE_NAMES
from .missing import estimate_missing
from .parallel import from_first
from .resolution import MAX_SHARP_WIDTH, relative_blur, resolved_stages, smoother
from .schedule import Stage
from .stages import FINAL_STEPS, run_stage, transform_state, undo_stages
from .start.rivals import RivalStarts
from .start.search import START, better_start, chosen_affine

__all__ = ["Run", "Work", "optimize"]

logger = logging.getLogger(__name__)

COARSE_FACTOR = 4  # minimum sample distance of coarse deformable stages, in units of the smallest voxel side

#: an engine and the stage that it has to run next
Work: TypeAlias = tuple[RegistrationEngine, Stage]
#: runs a stage of an engine, and calls the last argument after each step
RunOne: TypeAlias = Callable[[RegistrationEngine, Stage, Callable[[], object]], None]


def optimize(engine: RegistrationEngine, progress: bool = False) -> RegistrationEngine:
    """Run all stages of an engine's settings.

    Args:
        engine: newly constructed engine.
        progress: show a progress bar.

    Returns:
        the engine with the result: a new engine if a better start was found.
    """
    return Run(engine).complete(progress)


class Run:
    """One complete registration.

    Args:
        engine: newly constructed engine.

    Attributes:
        engine: engine with the current state, also after an interrupt.
        config: requested settings; those of ``engine`` differ if it continued with the inter-subject settings.
        rivals: starts of other orientations, for the multi-start search and the verdict.
        steps: number of steps, including those of repeated stages as far as they are known.
        unexplained_share: median over the local fits of the unexplained share of the target's variance, after the coarse
            stages; None if it was not measured.
    """

    def __init__(self, engine: RegistrationEngine) -> None:
        self.engine, self.config, self.exchange = engine, engine.config, engine.exchange
        self.start, self.device = engine.start, engine.device
        self.rivals = RivalStarts(*self.start.images, self.start.affine, self.config.transform != "rigid")
        self.unexplained_share: float | None = None
        self.affine_stages, rest = engine.config.schedule
        self.coarse_stages = tuple(itertools.takewhile(_is_coarse, rest))
        self.fine_stages = rest[len(self.coarse_stages) :]
        loss = single(engine.losses[0])
        if (self.start.masked or engine.config.missing == "auto") and not takes_mask(loss):
            logger.warning("%s takes no mask: it is evaluated on the whole images", type(loss).__name__)

        self.first_steps = _steps(self.affine_stages) + _steps(self.coarse_stages)
        self.steps = self.first_steps + _steps(self.fine_stages)

    @optimized
    def complete(self, progress: bool = False, run_one: RunOne = run_stage) -> RegistrationEngine:
        """Run all stages; if interrupted, :attr:`engine` has the current state.

        Args:
            progress: show a progress bar.
            run_one: runs a stage, see :func:`.stages.run_stage`.
        """
        bar = tqdm(total=self.steps, disable=not progress, desc="registration", unit="it")
        with bar, contextlib.closing(self.work()) as work:
            for engine, stage in work:
                bar.total = self.steps
                run_one(engine, stage, bar.update)
        return self.engine

    def work(self) -> Generator[Work, None, None]:
        """Yield the stages in order, each of which must be run before the next one is requested."""
        try:
            yield from self._coarse()
            if self.coarse_stages and (yield from self._needs_robust_form()):
                self._use_intersubject_settings()
            for stage in self.fine_stages:
                self._leave_out_missing()
                yield self.engine, stage
        finally:
            self.engine.release()

    def _use_intersubject_settings(self) -> None:
        """Continue with the inter-subject settings, as far as the images are resolved."""
        images, all_stages = self.engine.unweighted, self.fine_stages
        blur = float(from_first(self.exchange, lambda: np.array([relative_blur(*images)]), (1,))[0])
        use_form(self.engine, smoother(self.config.for_intersubject, blur, self.engine.fixed.grid.dims))
        self.fine_stages = resolved_stages(self.config, all_stages, blur)
        self.steps -= _steps(all_stages) - _steps(self.fine_stages)
        if blur > MAX_SHARP_WIDTH:
            logger.info(
                "edges as wide as %.1f voxels: bending weight %.3g, %d of %d fine stages",
                *(blur, self.engine.config.effective_bending_weight, len(self.fine_stages), len(all_stages)),
            )

    def _leave_out_missing(self) -> None:
        """Give voxels whose tissue the other image does not show less weight in the next stage."""
        if self.config.missing == "auto":
            self.engine.weigh(*(1 - missing.found for missing in estimate_missing(self.engine)))

    def _coarse(self) -> Generator[Work, None, None]:
        """The affine stages, with multi-start, and the coarse deformable stages."""
        yield from _each(self.engine, self.affine_stages)
        if self.affine_stages and self.start.search:
            yield from self._try_another_start()
        if self.start.predict is not None:
            self.engine.set_velocity(self.start.predict(self.engine.matrix()))
        yield from _each(self.engine, self.coarse_stages)

    def _try_another_start(self) -> Generator[Work, None, None]:
        """Repeat the affine stages if the search finds another start, and keep the better result."""
        first, images, initial = self.engine, self.start.images, self.start.affine
        matrix, scaling = first.matrix(), self.config.transform != "rigid"
        none = np.zeros_like(matrix)  # sent if there is no other start

        def search() -> np.ndarray:
            found = better_start(*images, matrix, initial, scaling, self.rivals)
            return none if found is None else found

        start = from_first(self.exchange, search, matrix.shape)
        if not start.any():
            return
        logger.info("repeating the affine stages from another start")
        first.release()
        second = RegistrationEngine(dataclasses.replace(self.start, affine=start), first.config, self.exchange)
        self.steps += _steps(self.affine_stages)
        before = transform_state(second)
        yield from _each(second, self.affine_stages)
        losses = _final_loss(first.history), _final_loss(second.history)
        affines = matrix, second.matrix()

        def compare() -> np.ndarray:
            return np.array([chosen_affine(*images, affines, losses, initial, start)], dtype=np.float64)

        choice = int(from_first(self.exchange, compare, (1,))[0])
        if choice == 0:
            return
        self.engine = second
        logger.warning("replaced the first affine by one from another start")
        if choice == START:
            undo_stages(second, before)
            logger.warning("the affine stages moved away from that start, which agrees better, and were undone")

    def _needs_robust_form(self) -> Generator[Work, None, bool]:
        """Whether to use the robust form: for pairs that are known to be of two subjects, or whose residuals and deformation
        after the coarse stages are large, which is logged.
        """
        if self.config.intersubject == "always":
            return has_logarithm(self.config)
        if not checks_correspondence(self.config):
            return False
        share = median_unexplained_share(self.engine)
        bending = float(from_first(self.exchange, lambda: np.array([relative_bending(self.engine)]), (1,))[0])
        if leaves_too_much(share, bending) and self.start.masked:  # residuals inside a mask are larger for any pair
            share = min(share, (yield from self._share_without_masks()))
        self.unexplained_share = share if math.isfinite(share) else None  # JSON has no NaN
        if not leaves_too_much(share, bending):
            return False
        logger.info(
            "large residuals, as between two subjects (half of the windows leave more than %.0f %% of the variance "
            "unexplained, bending energy %.2g): the finer stages use the robust form (intersubject=never prevents this)",
            *(100 * share, bending),
        )
        return True

    def _share_without_masks(self) -> Generator[Work, None, float]:
        """Return the unexplained share after the same stages without masks."""
        share = math.inf
        if self.start.unmasked is not None:  # with two processes, it is None in the second one
            logger.info("large residuals inside the masks: registering the whole images")
            start = dataclasses.replace(self.start, images=self.start.unmasked(), unmasked=None)
            other = Run(RegistrationEngine(start, self.config))
            self.steps += self.first_steps
            yield from other._coarse()
            share = median_unexplained_share(other.engine)
        return float(from_first(self.exchange, lambda: np.array([share]), (1,))[0])


def _is_coarse(stage: Stage) -> bool:
    return stage.spacing is not None and stage.factor >= COARSE_FACTOR


def _steps(stages: Sequence[Stage]) -> int:
    return sum(stage.iterations for stage in stages)


def _final_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean of the last losses, including the guides, for comparing two runs of the same stages."""
    found = [history[-1][name][-FINAL_STEPS:] for name in ("loss", *GUIDE_NAMES) if name in history[-1]]
    return sum(sum(math.nan if v is None else v for v in values) / len(values) for values in found)


def _each(engine: RegistrationEngine, stages: Sequence[Stage]) -> Generator[Work, None, None]:
    for stage in stages:
        yield engine, stage
