# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Synthetic results: any displacement between two modalities of the synthetic anatomy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig, RegistrationResult
from monai_locor.geometry import Grid, warped
from monai_locor.metrics import jacobian_statistics
from monai_locor.registration import Stage

from ..phantoms import anatomy, grid_of, image, other_modality

GRID = grid_of((32, 28, 26), (2.0, 2.0, 2.0))
GRID_2D = grid_of((96, 90), (1.0, 1.0), (0.0, 0.0), 0.2)
DECREASING_LOSS = [
    {"factor": 2.0, "spacing": None, "loss": [1 / (1 + i) for i in range(40)], "bending": [0.0] * 40, "seconds": 0.5}
]


def aligned(grid: Grid = GRID) -> tuple[MetaTensor, MetaTensor]:
    """Fixed and moving image of one anatomy, aligned."""
    values = anatomy(grid.points())
    return image(other_modality(values), grid), image(values, grid)


def noise(grid: Grid = GRID, seed: int = 0) -> MetaTensor:
    return image(torch.randn(grid.shape, generator=torch.Generator().manual_seed(seed)).numpy(), grid)


def shift(grid: Grid, *mm: float) -> torch.Tensor:
    """``(D, *grid)``."""
    return torch.tensor(mm).reshape(-1, *[1] * grid.dims).expand(grid.dims, *grid.shape).clone()


def bumps(grid: Grid, mm: float = 6.0) -> torch.Tensor:
    """A displacement along the first axis that is large at four places only, ``(D, *grid)``."""
    places = np.array([[s * 14.0, t * 12.0, 0.0][: grid.dims] for s in (-1, 1) for t in (-1, 1)])
    distances = np.linalg.norm(grid.points()[..., None, :] - places, axis=-1)
    out = torch.zeros(grid.dims, *grid.shape)
    out[0] = torch.from_numpy((np.exp(-0.5 * (distances / 3) ** 2) * [mm, 0.9 * mm, 0.8 * mm, 0.7 * mm]).sum(-1))
    return out


def result_with(
    fixed: MetaTensor,
    moving: MetaTensor,
    forward: torch.Tensor | None = None,
    inverse: torch.Tensor | None = None,
    **changes: Any,
) -> RegistrationResult:
    """A result with this displacement, by default zero; the default inverse is the negative, exact for shifts."""
    grids = Grid.of(fixed), Grid.of(moving)
    forward = torch.zeros(grids[0].dims, *grids[0].shape) if forward is None else forward
    inverse = -forward if inverse is None else inverse
    result = RegistrationResult(
        affine=np.eye(grids[0].dims + 1),
        forward_mm=forward,
        inverse_mm=inverse,
        warped_moving=warped(moving, grids[1], forward, grids[0]),
        warped_fixed=warped(fixed, grids[0], inverse, grids[1]),
        fixed_grid=grids[0],
        moving_grid=grids[1],
        history=DECREASING_LOSS,
        jacobian=jacobian_statistics(forward, grids[0]),
        config=RegistrationConfig(stages=(Stage(2, 40),)),
        seed=3,
        seconds=1.5,
        fixed_image=fixed,
        moving_image=moving,
    )
    return dataclasses.replace(result, **changes)
