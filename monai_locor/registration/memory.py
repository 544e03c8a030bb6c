# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Prediction of the memory of a registration from shapes and settings.

The parts of a registration hold different tensors; the largest sum counts. All sizes are numbers of float32 until they are
converted to bytes. ``tests/registration/test_memory.py`` compares the prediction with what registrations hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid
from ..geometry.partition import voxels_per_slab
from ..losses.streaming import SLAB_BUDGET_MB
from ..quality.error_features import sample_grid
from ..quality.samples import NUM_SAMPLES, every_nth
from .config import RegistrationConfig
from .correspondence import checks_correspondence
from .pyramid import level_grid
from .resampling import slab_samples
from .schedule import Stage
from .slab_limits import THRIFTY_SLAB_MB
from .start.reach import reached_part
from .start.start import Start
from .window_sizes import window_sizes

__all__ = ["MemoryNeed", "RunShape", "held_floats", "predicted_memory"]

FLOAT_BYTES = 4
MIB = 2**20
HOST_OVERHEAD = 1.15  # resident memory relative to the tensors: fragmentation of the heap, arenas of the threads
HOST_CONSTANT_MB = 30.0  # code that is loaded during a registration, its smaller objects
TYPICAL_SQUARINGS = 3  # of at most six: each stage takes as many as its velocity needs
DERIVATIVE_FLOATS = 6.6  # of a voxel, for smoothing and derivative magnitude
SMOOTHING_FLOATS = 3  # without the derivative
MASKED_FLOATS = 3  # in addition with masks
NORMALIZATION_FLOATS = 4  # of a voxel
STATISTICS_FLOATS = {"cpu": 1, "cuda": 4}  # of a fixed voxel, for the order statistics of the Jacobian determinant
RESAMPLING_FLOATS = 12  # of a sample of a slab of :class:`.resampling.Resampling`
FIELD_FLOATS = 50  # of a voxel of a slab, for fields, warped images and folding
VERDICT_FLOATS = 55  # of a sample of the verdict, which reads the image at 36 shifts
ERROR_FLOATS = 51  # of a sample of the estimate of the error
CONTROL_POINT_FLOATS = 8  # of a coefficient: gradient, state and temporaries of the optimizer, copies
# of a sample in the forward and backward pass of a measure beside the images: in all, and for slabs within the budget
LOSS_FLOATS = {
    "mutual_information": (7.0, 0.0),
    "normalized_mutual_information": (7.0, 0.0),
    "correlation_ratio": (7.0, 0.0),
    "local_parzen_cr": (4.0, 75.0),
    "srwcr": (4.0, 140.0),
    "local_ncc": (2.5, 6.0),
    "mind_ssc": (31.0, 0.0),
}
CUSTOM_LOSS_FLOATS = (12.0, 0.0)  # unknown
# of a sample of a slab of the default measure: held at most, and what the measure takes for it when it divides the samples
LOCOR_SLAB_FLOATS, LOCOR_COUNTED_FLOATS = 80.0, 109.0


@dataclass(frozen=True)
class RunShape:
    """The sizes that the memory of a registration depends on, besides the settings.

    Attributes:
        fixed, moving: grids of the images.
        parts: grids of the parts that are registered, see :func:`.start.reach.parts_in_reach`.
        channels: number of images per side.
        masked: whether the fixed and the moving image have weights.
        device: type of the device, ``"cpu"`` or ``"cuda"``.
        threads: threads of the CPU.
        guides: numbers that the maps of labels and surfaces hold, see :class:`.label_surfaces.LabelSurfaces`.
    """

    fixed: Grid
    moving: Grid
    parts: tuple[Grid, Grid]
    channels: int = 1
    masked: tuple[bool, bool] = (False, False)
    device: str = "cpu"
    threads: int = 1
    guides: int = 0

    @classmethod
    def of(cls, start: Start) -> RunShape:
        """The sizes of a registration with torch's present number of threads."""
        fixed, moving = (image.grid for image in start.images)
        back = np.linalg.inv(start.affine)
        whole = start.velocity is not None or start.displacement is not None or start.predict is not None
        parts = (
            fixed if whole else _cropped(fixed, reached_part(fixed, moving, back)),
            _cropped(moving, reached_part(moving, fixed, start.affine)),
        )
        masked = start.images[0].weight is not None, start.images[1].weight is not None
        device = "cpu" if start.device.type == "cpu" else "cuda"
        guides = 0 if start.labels is None else sum(each.numbers for each in start.labels.surfaces)
        guides += 0 if start.surfaces is None else start.surfaces.numbers
        return cls(fixed, moving, parts, len(start.images[0].image), masked, device, torch.get_num_threads(), guides)


def _cropped(grid: Grid, box: tuple[slice, ...] | None) -> Grid:
    return grid if box is None else grid.cropped(box)


@dataclass(frozen=True)
class MemoryNeed:
    """Predicted memory of the parts of a registration on its device, bytes, beyond that of the process before it.

    Attributes:
        preparation: normalization of the images.
        levels: smoothing and derivatives at the start of a stage.
        steps: steps of the finest stage.
        result: fields, warped images, statistics and verdict.
    """

    preparation: int
    levels: int
    steps: int
    result: int

    @property
    def peak(self) -> int:
        """The largest of the parts."""
        return max(self.preparation, self.levels, self.steps, self.result)


def predicted_memory(shape: RunShape, config: RegistrationConfig, thrifty: bool = False) -> MemoryNeed:
    """Predict the memory of a registration.

    Args:
        shape: sizes of the images.
        config: settings.
        thrifty: see :class:`.start.start.Start`.
    """
    found = held_floats(shape, config, thrifty)
    factor, constant = (HOST_OVERHEAD, HOST_CONSTANT_MB) if shape.device == "cpu" else (1.0, 0.0)
    return MemoryNeed(**{name: math.ceil(factor * FLOAT_BYTES * n + constant * MIB) for name, n in found.items()})


def held_floats(shape: RunShape, config: RegistrationConfig, thrifty: bool = False) -> dict[str, float]:
    """Return the numbers that the tensors of each part of a registration hold, see :class:`MemoryNeed`."""
    wholes, device = [math.prod(grid.shape) for grid in (shape.fixed, shape.moving)], shape.device
    prepared = sum(n * (shape.channels + mask) for n, mask in zip(wholes, shape.masked, strict=True))
    for part, n, mask in zip(shape.parts, wholes, shape.masked, strict=True):
        if math.prod(part.shape) < n:
            prepared += math.prod(part.shape) * (shape.channels + mask)
    stored = shape.channels * sum(wholes) + sum(n for n, mask in zip(wholes, shape.masked, strict=True) if mask)
    images = prepared + (stored if device == "cpu" else 0)
    stages = [stage for part in config.schedule for stage in part]
    return {
        "preparation": images + NORMALIZATION_FLOATS * max(wholes),
        "levels": images + max((_entering(shape, config, stage) for stage in stages), default=0),
        "steps": images + shape.guides + max((_step(shape, config, stage, thrifty) for stage in stages), default=0),
        "result": images + (stored if device != "cpu" else 0) + _result(shape, config),
    }


def _image_channels(shape: RunShape, config: RegistrationConfig) -> tuple[int, int]:
    """Channels of the reference and of the other image of a direction."""
    if config.similarity != "locor" or config.derivative == "none":
        return shape.channels, shape.channels
    return shape.channels * (2 if config.derivative == "both" else 1), 2 * shape.channels


def _levels(shape: RunShape, config: RegistrationConfig, stage: Stage) -> list[float]:
    """Images of each direction at a stage."""
    found = []
    target, pred = _image_channels(shape, config)
    for k, part in enumerate(shape.parts):
        other, masked = shape.parts[1 - k], shape.masked
        level = level_grid(part, stage.factor)
        # the reference is the image itself where it is neither smoothed nor resampled
        own = 0 if level is part and target == shape.channels else target
        samples = math.prod(level.shape)
        found.append(float(samples * (own + masked[k]) + math.prod(other.shape) * (pred + masked[1 - k])))
    return found


def _entering(shape: RunShape, config: RegistrationConfig, stage: Stage) -> float:
    """The levels of a stage while the last of them is made."""
    largest, masked = max(math.prod(part.shape) for part in shape.parts), any(shape.masked)
    work = DERIVATIVE_FLOATS if _image_channels(shape, config)[1] > shape.channels else SMOOTHING_FLOATS
    again = 0
    if masked and checks_correspondence(config):  # the coarse stages may be repeated without masks, from other images
        again = shape.channels * sum(math.prod(part.shape) for part in shape.parts)
    return _levels(shape, config, stage)[0] + largest * shape.channels * (work + MASKED_FLOATS * masked) + again


def _lattice(part: Grid, stage: Stage) -> tuple[int, int]:
    """Points of the integration lattice of a stage, and control points."""
    if stage.spacing is None:
        return 0, 0
    unit = float(part.spacing.min())
    step = max(2.0, min(stage.spacing / 2, 2 * stage.factor)) * unit
    length = (np.array(part.shape) - 1) * part.spacing + 4 * step
    return math.prod((np.ceil(length / step) + 1).astype(int)), math.prod((length / (stage.spacing * unit) + 3).astype(int))


def _step(shape: RunShape, config: RegistrationConfig, stage: Stage, thrifty: bool) -> float:
    """The levels and all that a step holds."""
    fixed, dims = shape.parts[0], shape.fixed.dims
    points, knots = _lattice(fixed, stage)
    squarings = min(TYPICAL_SQUARINGS, config.squarings)
    copies = 2 if config.composition == "stages" else 1
    # identity; of both directions: the field before each squaring and the result; a gradient. Where memory is short, the fields
    # are repeated for the gradient, when all that an evaluation holds is free
    fields = copies * 2 * (squarings + 1)
    lattice = dims * points * (1 + (copies * 2 if thrifty else fields) + 2 + 1) + dims * knots * CONTROL_POINT_FLOATS
    directions = [_direction(shape, config, stage, k, thrifty) for k in (0, 1)]
    together = shape.device == "cpu" and shape.threads > 1 and not thrifty and config.similarity != "custom"
    nodes = 3 * dims * max(points, 1)
    evaluated = sum(directions) + 2 * nodes if together else max(directions) + nodes
    if thrifty:
        evaluated = max(evaluated, dims * points * (fields + 2))
    return sum(_levels(shape, config, stage)) + lattice + 2 * dims * points + evaluated


def _direction(shape: RunShape, config: RegistrationConfig, stage: Stage, k: int, thrifty: bool) -> float:
    """The evaluation of the loss of a direction."""
    level = level_grid(shape.parts[k], stage.factor)
    samples, (target, pred) = math.prod(level.shape), _image_channels(shape, config)
    masked = any(shape.masked)
    device = shape.device
    resampled = min(samples, slab_samples(device, thrifty)) * RESAMPLING_FLOATS
    held = samples * (pred + masked + 1 + (device != "cpu"))  # the other image, weights and, on a GPU, their copy
    budget = (THRIFTY_SLAB_MB if thrifty else SLAB_BUDGET_MB)[device] * MIB / FLOAT_BYTES
    budget = min(budget, config.similarity_options.get("memory_budget_mb") or math.inf)
    if config.similarity != "locor":
        whole, slab = LOSS_FLOATS.get(config.similarity, CUSTOM_LOSS_FLOATS)
        return held + samples * whole * shape.channels + max(min(budget, slab * samples), resampled)
    strides = window_sizes(config, shape.parts[k], stage.factor).stride
    windows = math.prod(math.ceil(n / stride) + 1 for n, stride in zip(level.shape, strides, strict=True))
    size, targets = config.num_basis, target // shape.channels
    maps = size * (size + 1) // 2 + size * targets + targets + 1 + (size + targets if config.form != "log" else 0)
    # gradients of the window sums; that of the image takes its memory if it is the only one. The kernels of a GPU need memory
    # for it, and no slabs
    own = pred * samples // shape.channels
    loss = shape.channels * (1.2 * windows * maps + (own if shape.channels > 1 else 0))
    slab = LOCOR_SLAB_FLOATS * samples / max(1, math.ceil(LOCOR_COUNTED_FLOATS * samples / budget))
    return held + loss + max(slab, resampled, own if device == "cuda" and shape.channels == 1 else 0)


def _result(shape: RunShape, config: RegistrationConfig) -> float:
    """Fields, warped images, statistics and verdict, beside the images."""
    fixed, moving, dims = math.prod(shape.fixed.shape), math.prod(shape.moving.shape), shape.fixed.dims
    slab = min(max(fixed, moving), voxels_per_slab(shape.device)) * FIELD_FLOATS
    fields = dims * (fixed + moving)
    lattice = max((_lattice(shape.parts[0], s)[0] for part in config.schedule for s in part), default=0) * 2 * dims
    missing = 0 if config.missing == "never" else 2 * (fixed + moving)
    verdict = math.prod(every_nth(shape.fixed, NUM_SAMPLES)[1].shape) * VERDICT_FLOATS + (2 * moving if shape.masked[1] else 0)
    error = math.prod(sample_grid(shape.fixed).shape) * ERROR_FLOATS
    # the inverse is refined from a copy; then the images are warped; then the statistics are computed
    statistics = STATISTICS_FLOATS[shape.device] * fixed + slab
    after = fixed + moving + max(3 * max(fixed, moving), statistics, verdict, error)
    return lattice + missing + fields + max(dims * moving + slab, after)
