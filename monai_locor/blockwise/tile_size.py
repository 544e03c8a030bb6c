# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The size of the tiles of a blockwise registration and of their halo."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import InputError
from ..free_memory import gibibytes
from ..geometry import Grid
from ..registration import RegistrationConfig
from ..registration.memory import RunShape, predicted_memory
from .tiling import Tiling

__all__ = ["halo_of", "tile_side", "tiling_of"]

CORE_VOXELS = {2: 960, 3: 128}  # along each axis, without the halo, by default
MAX_TILE_VOXELS = {2: 8192, 3: 512}  # with the setting ``memory``
HALO_SPACINGS = 2  # halo in spacings of the coarsest control points of the tiles,
HALO_VOXELS = 8  # plus these voxels
MIN_CORE_VOXELS = 8
SIDE_STEP = 16  # voxels
TILE_OVERHEAD = 1.35  # measured relative to predicted memory: the initial velocity, reading of the images


def halo_of(grid: Grid, config: RegistrationConfig) -> list[int]:
    """Width of the halo along each axis, voxels.

    Args:
        grid: fixed grid.
        config: settings of a tile.
    """
    spacing = max(stage.spacing or 0.0 for stage in config.stages)
    width = (HALO_SPACINGS * spacing + HALO_VOXELS) * float(grid.spacing.min())
    return [math.ceil(width / h - 1e-6) for h in grid.spacing]


def tile_side(grid: Grid, config: RegistrationConfig, guides: int = 0) -> int:
    """Voxels along each axis of a tile with its halo: the default or, with the setting ``memory``, the largest that fits.

    Args:
        grid: fixed grid, in canonical axis order.
        config: settings of a tile.
        guides: numbers that distance maps of labels hold.

    Raises:
        InputError: if the smallest useful tile does not fit.
    """
    halo = halo_of(grid, config)
    if config.memory is None:
        return CORE_VOXELS[grid.dims] + 2 * max(halo)
    least = -(-(2 * max(halo) + MIN_CORE_VOXELS) // SIDE_STEP) * SIDE_STEP
    sides = range(least, MAX_TILE_VOXELS[grid.dims] + 1, SIDE_STEP)
    needs = {side: _needed(grid, config, halo, side, guides) for side in sides}
    fitting = [side for side, need in needs.items() if need <= config.memory]
    if not fitting:
        raise InputError(
            f"memory {gibibytes(config.memory)}: a tile of {least} voxels along each axis needs {gibibytes(needs[least])}; "
            "raise the limit"
        )
    return max(fitting)


def _needed(grid: Grid, config: RegistrationConfig, halo: Sequence[int], side: int, guides: int) -> int:
    """Predicted memory of a tile, bytes; the part of the moving image has half a halo more on each side."""
    fixed = Grid(tuple(min(side, n) for n in grid.shape), grid.affine)
    moving = Grid(tuple(min(side + h, n) for n, h in zip(grid.shape, halo, strict=True)), grid.affine)
    need = predicted_memory(RunShape(fixed, moving, (fixed, moving), guides=guides), config)
    return math.ceil(TILE_OVERHEAD * max(need.levels, need.steps))


def tiling_of(grid: Grid, block: int | str, config: RegistrationConfig, guides: int = 0) -> Tiling:
    """The tiles of a grid.

    Args:
        grid: fixed grid, in canonical axis order.
        block: voxels along each axis of a tile with its halo, or ``"auto"``, see :func:`tile_side`.
        config: settings of a tile.
        guides: numbers that distance maps of labels hold.

    Raises:
        InputError: if the tiles are too small for their halo.
    """
    halo = halo_of(grid, config)
    side = tile_side(grid, config, guides) if block == "auto" else int(block)
    core = [side - 2 * h for h in halo]
    if min(c if c < n else MIN_CORE_VOXELS for c, n in zip(core, grid.shape, strict=True)) < MIN_CORE_VOXELS:
        raise InputError(f"block {block}: the halo takes {max(halo)} voxels on each side; give {2 * max(halo) + 16} or more")
    unit = max(1, round(max(stage.spacing or 0.0 for stage in config.stages)))
    return Tiling.of(grid.shape, [max(c, MIN_CORE_VOXELS) for c in core], halo, unit)
