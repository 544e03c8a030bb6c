# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One tile of a blockwise registration: the fine stages, started from the coarse result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cohort.work import Outcome
from ..errors import InputError, one_line
from ..geometry import Grid, interpolation_matrix, separable, voxel_to_voxel
from ..geometry.partition import grown
from ..precision import optimizing
from ..registration import RegistrationEngine, Stage, Start
from ..registration.pair import select_device
from ..registration.pyramid import MIN_FOREGROUND
from ..registration.stages import run_stage
from ..registration.start.losses import InitialLosses
from ..registration.start.prepare import PreparedImage
from .state import BlockState
from .tiling import Box, extent
from .velocity import MARGIN_STEPS, box_around

__all__ = ["BlockJob", "Volumes", "register_tile", "threads_of", "volumes_of"]

MIN_FOREGROUND_SHARE = 1e-3  # of the voxels of a tile, below which there is nothing to register
MAPPED_POINTS = 12  # along each axis of a tile, to find the part of the moving image that it reaches


@dataclass(frozen=True)
class BlockJob:
    """A tile to register, or a block of a field to compute.

    Attributes:
        folder: folder of the state.
        number: number of the tile or block.
        kind: ``"tile"``, ``"forward"`` or ``"inverse"``.
        threads: CPU threads; None for torch's choice.
        device: device of the registration; None for the default.
        attempt: 1 for the first attempt.
    """

    folder: str
    number: int
    kind: str = "tile"
    threads: int | None = None
    device: str | None = None
    attempt: int = 1

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"{self.kind} {self.number}"


@contextmanager
def threads_of(job: BlockJob) -> Iterator[None]:
    """Use the threads of a job, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def register_tile(job: BlockJob) -> Outcome:
    """Register a tile and save its velocity. A failure is returned, not raised; a finished tile is not registered again."""
    state, begin = BlockState(Path(job.folder)), time.perf_counter()
    done = state.record("tile", job.number)
    if done is not None:
        return Outcome(done)
    try:
        device = select_device(job.device)
        with threads_of(job), optimizing(device):
            values, record = _registered(state, job.number, device)
        record = {**record, "seconds": round(time.perf_counter() - begin, 3)}
        state.save_tile(job.number, values, record)
        return Outcome(record)
    except (InputError, OSError, RuntimeError, ValueError, MemoryError) as error:
        return Outcome(error=one_line(error) or type(error).__name__, seconds=time.perf_counter() - begin)


def _registered(state: BlockState, number: int, device: torch.device) -> tuple[np.ndarray | None, dict[str, Any]]:
    """The weighted velocity of a tile without the coarse one, or None for zero; and its record."""
    plan = state.plan
    fixed = state.fixed.prepared(plan.tiling.box(number), device)
    reached = _reached(state, fixed.grid)
    if reached is None or not _has_foreground(fixed):
        return None, {"state": "empty", "largest_mm": 0.0}
    moving = state.moving.prepared(reached, device)
    if not _has_foreground(moving):
        return None, {"state": "empty", "largest_mm": 0.0}
    start = Start(
        images=(fixed, moving),
        affine=plan.affine,
        velocity=state.coarse.on(fixed.grid),
        losses=InitialLosses(plan.seed, basis=state.basis),
    )
    engine = RegistrationEngine(start, plan.config)
    volumes = volumes_of(engine, plan.config.stages[-1], plan.step)
    if volumes.compared <= 0:
        return None, {"state": "empty", "largest_mm": 0.0}
    weight = plan.config.effective_bending_weight * plan.share / volumes.share
    engine.config = dataclasses.replace(plan.config, bending_weight=weight)
    engine.start = dataclasses.replace(engine.start, **_guides(state, number, volumes.compared))
    for stage in plan.config.stages:
        run_stage(engine, stage, lambda: None)
    engine.release()
    values = _weighted(state, number, _added_mm(engine), engine.velocity.lattice)
    losses = [[entry["loss"][0], entry["loss"][-1]] for entry in engine.history if entry["loss"]]
    largest = engine.velocity.largest() * engine.velocity.step
    return values, {"state": "registered", "largest_mm": largest, "losses": losses, "share": volumes.share}


def _guides(state: BlockState, number: int, compared: float) -> dict[str, Any]:
    """Landmarks and labels of a tile in which a volume is compared, as arguments of its start."""
    low, high = extent(state.plan.tiling.box(number), state.plan.tiling.shape)
    to_voxels = np.linalg.inv(state.fixed.grid.affine)
    return state.guides.of_tile(low, high, to_voxels, state.plan.volume / compared)


def _has_foreground(image: PreparedImage) -> bool:
    """Whether there is something to register."""
    seen = image.image if image.weight is None else image.image * image.weight
    return float((seen > MIN_FOREGROUND).float().mean()) > MIN_FOREGROUND_SHARE


def _reached(state: BlockState, part: Grid) -> Box | None:
    """The voxels of the moving image that a part of the fixed image reaches, with a margin of half the halo; None for none."""
    axes = [np.linspace(0, n - 1, min(n, MAPPED_POINTS)) for n in part.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, part.dims)
    points = index @ part.affine[:-1, :-1].T + part.affine[:-1, -1]
    mapped = state.coarse_transform.points(points)
    moving = state.moving.grid
    voxels = (mapped - moving.affine[:-1, -1]) @ np.linalg.inv(moving.affine[:-1, :-1]).T
    if (voxels.max(0) < 0).any() or (voxels.min(0) > np.array(moving.shape) - 1).any():
        return None
    margin = np.array(state.plan.tiling.halo) * state.fixed.grid.spacing / 2
    return grown(box_around(moving, mapped, 1), moving.shape, [int(np.ceil(margin.max() / h)) for h in moving.spacing])


@dataclass(frozen=True)
class Volumes:
    """The volumes over which the terms of the loss are means, mm^D.

    Attributes:
        compared: of the samples, the harmonic mean of both directions: that of the similarity. 0 if no sample is compared.
        lattice: of the lattice of the deformation: that of the bending energy.
    """

    compared: float
    lattice: float

    @property
    def share(self) -> float:
        """The weight of a volume in the bending energy relative to the similarity.

        A tile whose bending energy is weighted by the ratio of the shares has the same balance as the whole image.
        """
        return self.compared / self.lattice


def volumes_of(engine: RegistrationEngine, stage: Stage, step: float) -> Volumes:
    """The volumes of a stage.

    Args:
        engine: an engine with a deformation.
        stage: a stage.
        step: distance of the points of the lattice, mm.
    """
    engine.enter(stage)
    sizes = ((k, float(np.prod(engine.levels[k].grid.spacing)) / engine.levels[k].share) for k in engine.directions)
    volumes = [float(engine.compared(k)[2].sum()) * size for k, size in sizes]
    grid = engine.fixed.grid
    lattice = float(np.prod((np.array(grid.shape) - 1) * grid.spacing + 2 * MARGIN_STEPS * step))
    return Volumes(0.0 if min(volumes) <= 0 else float(len(volumes) / sum(1 / v for v in volumes)), lattice)


@torch.no_grad()
def _added_mm(engine: RegistrationEngine) -> torch.Tensor:
    """The velocity without its base, ``(D, *lattice)``, RAS mm."""
    velocity = engine.velocity
    assert velocity.base is not None
    axes = torch.from_numpy(velocity.lattice.affine[:-1, :-1].copy())
    return torch.tensordot(axes, (velocity.velocity() - velocity.base).cpu().double(), dims=1).float()


def _weighted(state: BlockState, number: int, values: torch.Tensor, lattice: Grid) -> np.ndarray:
    """Interpolate a velocity of a tile on the points of the whole lattice, times the weights of the tile."""
    nodes = state.nodes(number)
    part, matrices = state.lattice.cropped(nodes), []
    to_tile = voxel_to_voxel(part, lattice)
    for axis, n in enumerate(part.shape):
        positions = to_tile[axis, -1] + to_tile[axis, axis] * np.arange(n)
        weights = state.plan.tiling.weights(number, axis, state.node_positions(axis)[nodes[axis]])
        matrices.append(torch.from_numpy(weights[:, None] * interpolation_matrix(positions, lattice.shape[axis])).float())
    return separable(matrices, values).numpy()
