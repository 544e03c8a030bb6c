# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Which engines can share their steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from ..geometry import Grid, voxel_to_voxel
from ..losses.base import PairLoss
from ..networks import LearnedBasis
from ..networks.velocity import SplineVelocity
from .engine import RegistrationEngine
from .pyramid import level_grid
from .schedule import Stage

__all__ = ["grouped", "outline", "partition", "samples_of_step"]

T = TypeVar("T")

DIGITS = 9  # of relative geometry that is compared


def samples_of_step(engine: RegistrationEngine, stage: Stage) -> int:
    """Return the number of samples of both directions in a step of a stage, at most."""
    return sum(math.prod(level_grid(image.grid, stage.factor).shape) for image in (engine.fixed, engine.moving))


def outline(engine: RegistrationEngine, stage: Stage) -> Hashable | None:
    """Return what engines must have in common before they enter a stage; None for an engine that runs alone."""
    if engine.exchange is not None or engine.start.guided or type(engine.velocity) is not SplineVelocity:
        return None
    if engine.start.losses.similarity is not None or not all(_can_be_stacked(loss) for loss in engine.losses):
        return None
    grids = tuple((image.grid.shape, _rounded(image.grid.spacing)) for image in (engine.fixed, engine.moving))
    return engine.config, stage, grids, engine.deformable, engine.device


def _can_be_stacked(loss: object) -> bool:
    """Whether each item of a batch can have its own parameters in a loss."""
    basis = getattr(loss, "basis", None)
    return isinstance(loss, PairLoss) and not (isinstance(basis, LearnedBasis) and basis.changed())


def partition(engines: Sequence[RegistrationEngine]) -> list[list[RegistrationEngine]]:
    """Divide engines that have entered a stage, with equal :func:`outline`, into those that can share their steps.

    They have levels of equal shape at the same place of the lattice, weights of the same kind, and losses that would draw the
    same random windows. Each part is sorted by the number of squarings.
    """
    parts = grouped(engines, _layout)
    return [sorted(part, key=lambda engine: engine.velocity.exponential.squarings) for part in parts]


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Return lists of items with equal keys, in order; items whose key is None are alone."""
    groups: dict[Hashable, list[T]] = {}
    for number, item in enumerate(items):
        found = key(item)
        groups.setdefault((found is None, number if found is None else found), []).append(item)
    return list(groups.values())


def _layout(engine: RegistrationEngine) -> Hashable:
    velocity, sides = engine.velocity, []
    for k in engine.directions:
        level, loss = engine.levels[k], engine.losses[k]
        generator = getattr(loss, "generator", None)
        state = None if generator is None else generator.get_state().numpy().tobytes()
        place = _relative(level.grid, engine.fixed.grid) if k == 0 else _rounded(level.grid.spacing / velocity.step)
        shapes = level.reference.shape, level.other.shape, engine.coordinates[k].nodes
        windows = getattr(loss, "kernel_sigma", None)
        sides.append((shapes, place, level.masked, level.weight is None, windows, state))
    lattice = (
        velocity.shape,
        velocity.coefficients.shape,
        _rounded(np.array([*velocity.spacing, velocity.margin]) / velocity.step),
        velocity.free,
    )
    rates = tuple((g.rate, g.damping) for g in engine.optimizer.groups) if engine.optimizer is not None else None
    return tuple(sides), lattice, velocity.base is None, rates


def _relative(level: Grid, fixed: Grid) -> tuple[float, ...]:
    return _rounded(voxel_to_voxel(level, fixed))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple((np.round(values, DIGITS) + 0.0).ravel().tolist())
