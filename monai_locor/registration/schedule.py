# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The schedule of a registration: its stages and their selection by the type of transform."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from .numbers import POSITIVE, POSITIVE_OR_NONE, STEPS

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["Stage", "for_pictures", "picture_size", "rate_factor", "scaled_stage", "schedule_of"]


DIRECTIONS = ("both", "alternating")


@dataclass(frozen=True)
class Stage:
    """One stage of the schedule.

    Lengths are in units of the smallest voxel side of the fixed image (for ``factor``: of the direction's reference image),
    so that a schedule scales from mouse to human and does not depend on anisotropy.

    Args:
        factor: sample distance of the loss.
        iterations: number of optimization steps.
        spacing: control-point spacing, larger across thick slices, see :func:`.pyramid.distance_ratios`; None keeps the
            deformation fixed (affine only).
        learning_rate: learning rate of the coefficients in control-point spacings per step, by default 0.08, limited to a
            twentieth of the field of view; in an affine stage, of the affine, by default that of the configuration.
        directions: ``"both"``: each step evaluates the loss in both directions; or ``"alternating"``: from the second step on,
            in one direction, then in the other, which halves the time of a step, except on a CPU with several threads, where
            both run at the same time. With two processes, one per direction, all steps evaluate both.
    """

    factor: float
    iterations: int
    spacing: float | None = None
    learning_rate: float | None = None
    directions: str = "both"

    def __post_init__(self) -> None:
        POSITIVE.check("factor", self.factor)
        POSITIVE_OR_NONE.check("spacing", self.spacing)
        POSITIVE_OR_NONE.check("learning_rate", self.learning_rate)
        STEPS.check("iterations", self.iterations)
        if self.directions not in DIRECTIONS:
            raise InputError(f"directions must be one of {', '.join(DIRECTIONS)}, got {self.directions!r}.")


DENSE_RATE = 8e-2  # default learning rate of deformable stages

DEFAULT_STAGES = (
    Stage(factor=8, iterations=60, learning_rate=1.5e-2),
    Stage(factor=4, iterations=30, learning_rate=7.5e-3),
    Stage(factor=4, iterations=50, spacing=32, learning_rate=32e-2),
    Stage(factor=4, iterations=50, spacing=16, learning_rate=32e-2),
    Stage(factor=2, iterations=60, spacing=8, learning_rate=16e-2),
    Stage(factor=1, iterations=20, spacing=4, learning_rate=16e-2),
)
FAST_STAGES = (
    Stage(factor=8, iterations=50, learning_rate=1.5e-2),
    Stage(factor=4, iterations=20, learning_rate=7.5e-3),
    Stage(factor=4, iterations=30, spacing=32, learning_rate=30e-2),
    Stage(factor=4, iterations=30, spacing=16, learning_rate=30e-2),
    Stage(factor=2, iterations=32, spacing=8, learning_rate=15e-2),
    Stage(factor=1, iterations=10, spacing=4, learning_rate=9.5e-2),
)
DRAFT_STAGES = (
    Stage(factor=8, iterations=30, learning_rate=1.5e-2),
    Stage(factor=4, iterations=12, learning_rate=7.5e-3),
    Stage(factor=4, iterations=14, spacing=32, learning_rate=38e-2),
    Stage(factor=4, iterations=14, spacing=16, learning_rate=38e-2),
    Stage(factor=2, iterations=12, spacing=8, learning_rate=19e-2),
    Stage(factor=1, iterations=3, spacing=4, learning_rate=12e-2),
)
PAPER_STAGES = (
    Stage(factor=2, iterations=80),
    Stage(factor=4, iterations=80, spacing=32, learning_rate=16e-2),
    Stage(factor=4, iterations=80, spacing=16, learning_rate=16e-2),
    Stage(factor=2, iterations=40, spacing=8, learning_rate=8e-2),
    Stage(factor=2, iterations=40, spacing=4, learning_rate=8e-2),
    Stage(factor=1, iterations=40, spacing=4, learning_rate=4e-2),
)

PRESET_STAGES = (DEFAULT_STAGES, FAST_STAGES, DRAFT_STAGES)  # adapted to the images


MAX_SLICE_SIZE = 256  # pixels along the longest axis of a 2-D image that is registered like a volume
MAX_COARSE_SAMPLES = 32  # along the longest axis of a 2-D image, in the first stage


def picture_size(grid: Grid) -> float:
    """Return the longest side of an image in units of its smallest voxel side."""
    return float((grid.extent / grid.spacing.min()).max())


def for_pictures(stages: tuple[Stage, ...], size: float) -> tuple[Stage, ...]:
    """Return the stages for a 2-D image, which may have many more pixels along an axis than volumes have voxels.

    The stages of the presets start with about 25 samples along an axis of a head. For larger pictures, all their lengths are
    doubled until the first stage has at most ``MAX_COARSE_SAMPLES``, and the last stage is repeated at halved lengths until it
    is back at its own. Other stages are returned unchanged.

    Args:
        stages: stages of the settings.
        size: see :func:`picture_size`.

    >>> [(s.factor, s.spacing) for s in for_pictures(FAST_STAGES, 500)]
    [(16, None), (8, None), (8, 64), (8, 32), (4, 16), (2, 8), (1, 4)]
    """
    if stages not in PRESET_STAGES:
        return stages
    octaves = max(0, math.ceil(math.log2(size / (MAX_COARSE_SAMPLES * max(s.factor for s in stages)))))
    coarse = [scaled_stage(stage, 2**octaves) for stage in stages]
    return (*coarse, *(scaled_stage(stages[-1], 2**octave) for octave in reversed(range(octaves))))


def scaled_stage(stage: Stage, by: int) -> Stage:
    """Return a stage with all its lengths multiplied."""
    return dataclasses.replace(stage, factor=stage.factor * by, spacing=None if stage.spacing is None else stage.spacing * by)


def schedule_of(
    stages: Sequence[Stage], transform: str, affine: bool, rate: float
) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
    """Return the stages to run for a type of transform.

    Without a deformation, each deformable stage with finer samples than all stages before it is replaced by an affine stage
    with as many steps. Its learning rate is that of the last affine stage, scaled by the ratio of the sample distances.

    Args:
        stages: stages of the settings.
        transform: see :class:`monai_locor.registration.RegistrationConfig`.
        affine: whether the affine is optimized; if not, affine stages are skipped.
        rate: learning rate of affine stages without their own.

    Returns:
        the first, affine stages, after which multi-start is applied; and all others.

    >>> [[s.factor for s in part] for part in schedule_of(DEFAULT_STAGES, "rigid", True, 5e-3)]
    [[8, 4], [2, 1]]
    """
    asked = [s for s in stages if s.iterations > 0 and (affine or s.spacing is not None)]
    first = list(itertools.takewhile(lambda s: s.spacing is None, asked))
    rest = asked[len(first) :]
    if transform != "deformable":
        rest = _without_deformation(first, rest, rate)
    return tuple(first), tuple(rest)


def _without_deformation(first: Sequence[Stage], rest: Sequence[Stage], rate: float) -> list[Stage]:
    out: list[Stage] = []
    finest = min((s.factor for s in first), default=math.inf)
    last = first[-1] if first else Stage(max((s.factor for s in rest), default=1), 0)
    for stage in rest:
        if stage.spacing is None:
            out.append(stage)
        elif stage.factor < finest:
            own = (last.learning_rate or rate) * stage.factor / last.factor
            out.append(dataclasses.replace(stage, spacing=None, learning_rate=own))
        finest = min(finest, stage.factor)
    return out


def rate_factor(iterations: int, warmup: int, decay_start: float, decay_end: float) -> Callable[[int], float]:
    """Return the learning rate as a function of the step of a stage, relative to its maximum.

    It increases linearly in the first ``warmup`` steps and decays along half a cosine from ``decay_start`` to ``decay_end``.

    Args:
        iterations: number of steps of the stage.
        warmup, decay_start, decay_end: see :class:`monai_locor.registration.RegistrationConfig`.
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup + 1))
        through = max(0.0, min(1.0, (step / max(iterations, 1) - decay_start) / max(1 - decay_start, 1e-9)))
        return rise * (decay_end + (1 - decay_end) * (1 + math.cos(math.pi * through)) / 2)

    return factor
