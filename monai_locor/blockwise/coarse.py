# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The coarse registration of a blockwise one: whole images, averaged over blocks of voxels, with the ordinary engine."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import Grid
from ..losses.intensity import robust_range
from ..registration import RegistrationConfig, RegistrationEngine, RegistrationResult, Stage, Start
from ..registration.api import register
from ..registration.schedule import scaled_stage
from ..registration.start.losses import InitialLosses
from ..registration.start.prepare import prepare
from ..registration.weights import voxel_weight
from ..roles import ROLES
from .images import BlockImage, block_means
from .tile import Volumes, volumes_of
from .velocity import CoarseVelocity

__all__ = [
    "CoarseImage",
    "coarse_factor",
    "coarse_image",
    "factors_of",
    "fine_stages",
    "register_coarse",
    "tile_settings",
    "whole_volumes",
]

logger = logging.getLogger(__name__)

MAX_COARSE_VOXELS = {2: 2**20, 3: 2**22}


@dataclass(frozen=True, eq=False)
class CoarseImage:
    """An image averaged over blocks.

    Attributes:
        image: ``(1, *coarse)``.
        mask: likewise its mask, or None.
        lowest: smallest voxel of the file.
    """

    image: MetaTensor
    mask: MetaTensor | None
    lowest: float

    def span(self, quantile: float) -> tuple[float, float]:
        """The intensities that the coarse registration maps to 0 and 1."""
        values = self.image.as_tensor()
        valid = values.isfinite() if self.mask is None else values.isfinite() & (self.mask.as_tensor() > 0)
        low, high = robust_range(values.nan_to_num()[None], valid[None], quantile)
        return float(low), float(high)


def coarse_factor(grid: Grid, least: int) -> int:
    """The factor, a power of two, by which an image is averaged to have few enough voxels.

    Args:
        grid: grid of the image.
        least: smallest factor.
    """
    factor = least
    while math.prod(-(-n // f) for n, f in zip(grid.shape, factors_of(grid, factor))) > MAX_COARSE_VOXELS[grid.dims]:
        factor *= 2
    return factor


def factors_of(grid: Grid, factor: int) -> list[int]:
    """The voxels of a block along each axis: fewer where they are larger."""
    return [max(1, int(factor * grid.spacing.min() / h + 1e-6)) for h in grid.spacing]


def coarse_image(image: BlockImage, mask: BlockImage | None, factor: int) -> CoarseImage:
    """Average an image and its mask over blocks, reading them box by box."""
    values, grid, lowest = block_means(image, factors_of(image.grid, factor))
    weights = None
    if mask is not None:
        inside, own, _ = block_means(mask, factors_of(mask.grid, coarse_factor(mask.grid, 1)), is_mask=True)
        weights = _tensor(inside, own, mask.path)
    return CoarseImage(_tensor(values, grid, image.path), weights, lowest)


def _tensor(values: np.ndarray, grid: Grid, path: Path) -> MetaTensor:
    meta = {"filename_or_obj": str(path)}
    return MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(grid.full_affine), meta=meta)


def register_coarse(images: Sequence[CoarseImage], config: RegistrationConfig, **arguments: Any) -> RegistrationResult:
    """Register the averaged images.

    Args:
        images: fixed and moving image.
        config: settings; their lengths are in averaged voxels.
        arguments: further arguments of :func:`monai_locor.register`.
    """
    fixed, moving = images
    result = register(fixed.image, moving.image, preset=config, fixed_mask=fixed.mask, moving_mask=moving.mask, **arguments)
    if result.velocity is None:
        raise InputError("the coarse registration has no velocity, which the blocks continue; use transform deformable")
    return result


def fine_stages(last: Stage, factor: int) -> tuple[Stage, ...]:
    """The stages of a tile: the last one of the settings at halved lengths until it is at those of the voxels.

    >>> [(s.factor, s.spacing) for s in fine_stages(Stage(1, 10, 4), 4)]
    [(2, 8), (1, 4)]
    """
    return tuple(scaled_stage(last, 2**k) for k in reversed(range(round(math.log2(factor)))))


def tile_settings(result: RegistrationResult, last: Stage, factor: int) -> RegistrationConfig:
    """The settings of a tile: those of the coarse registration after its coarse stages, with the affine kept.

    Args:
        result: the coarse result.
        last: last stage of the settings; for lack of memory, the coarse registration may have left it out.
        factor: voxels of the fixed image in an averaged voxel, along an axis.
    """
    return dataclasses.replace(
        result.last_config,
        stages=fine_stages(last, factor),
        affine=False,
        initialization="world",
        multistart="never",
        intersubject="never",
    )


def whole_volumes(
    result: RegistrationResult, images: Sequence[CoarseImage], config: RegistrationConfig, step: float, factor: int
) -> Volumes:
    """:func:`.tile.volumes_of` the whole images, measured on the averaged ones.

    Args:
        result: the coarse result.
        images: fixed and moving image.
        config: settings of a tile.
        step: distance of the points of the lattice of the tiles, mm.
        factor: voxels of the fixed image in an averaged voxel, along an axis.
    """
    prepared = []
    for role, each in zip(ROLES, images, strict=True):
        values = each.image.as_tensor()
        finite = values.isfinite()
        weight = voxel_weight(role, each.mask, None if bool(finite.all()) else finite, Grid.of(each.image))
        image = MetaTensor(values.nan_to_num(), meta=each.image.meta)
        prepared.append(prepare(image, weight, config.quantile, torch.device("cpu")))
    assert result.velocity is not None
    velocity = CoarseVelocity(result.velocity.values, result.velocity.lattice)
    start = Start(
        images=(prepared[0], prepared[1]),
        affine=result.affine,
        velocity=velocity.on(prepared[0].grid),
        losses=InitialLosses(result.seed, basis=result.basis),
    )
    last = config.stages[-1]
    return volumes_of(RegistrationEngine(start, config), Stage(last.factor, last.iterations, last.spacing), step)
