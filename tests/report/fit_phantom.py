# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A small pair whose fixed image is a function of the aligned moving one, and a result that says where it belongs."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig, RegistrationResult
from monai_locor.geometry import Grid, warp
from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.registration import Stage
from monai_locor.registration.basis_pair import BasisPair

from ..phantoms import image

CONFIG = RegistrationConfig(stages=(Stage(1, 1),), stride=3, eps=1e-5)
SHAPES = {2: (26, 22), 3: (13, 12, 14)}


def fit_grid(dims: int, turn: float = 0.0) -> Grid:
    """Voxels of (2, 1.5, 2.5) mm, turned about the last axis."""
    affine = np.eye(dims + 1)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:-1, :-1] *= np.array([2.0, 1.5, 2.5])[:dims]
    affine[:-1, -1] = np.array([-20.0, 5.0, 30.0])[:dims]
    return Grid(SHAPES[dims], affine)


def smooth(grid: Grid, seed: int = 0) -> torch.Tensor:
    """Random, smooth, in [0.2, 1]: nothing of it is background."""
    coarse = torch.rand(1, 1, *(4,) * grid.dims, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, grid.shape, mode="bicubic" if grid.dims == 2 else "trilinear")[0]
    return 0.2 + 0.8 * (fine - fine.min()) / (fine.max() - fine.min())


def contrast(values: torch.Tensor) -> torch.Tensor:
    """A function that is neither linear nor monotonic."""
    return 0.4 + values - 1.2 * (values - 0.5) ** 2


def bases(config: RegistrationConfig, seed: int = 0) -> BasisPair:
    """Of nothing but the seed."""
    torch.manual_seed(seed)
    channels = 1 if config.derivative == "none" else 2
    losses = [LocalLearnedBasisCRLoss(2, channels, config.num_basis, config.hidden_channels) for _ in range(2)]
    return BasisPair.of(*losses, derivative=config.derivative)


def aligned(dims: int = 3, turn: float = 0.0) -> tuple[MetaTensor, MetaTensor]:
    """Fixed and moving image on one grid; the first is a function of the second."""
    grid = fit_grid(dims, turn)
    moving = smooth(grid)
    return image(contrast(moving), grid), image(moving, grid)


def displaced(dims: int = 3, config: RegistrationConfig = CONFIG) -> tuple[RegistrationResult, MetaTensor, MetaTensor]:
    """A result that knows the shift of the moving image, and both images."""
    grid = fit_grid(dims)
    shift = torch.tensor([3.0, -2.0, 2.5])[:dims].reshape(-1, *[1] * dims).expand(dims, *grid.shape).contiguous()
    moving = smooth(grid)
    fixed = contrast(warp(moving, grid, shift, grid, padding_mode="border"))
    return result_of(image(fixed, grid), image(moving, grid), shift, config), image(fixed, grid), image(moving, grid)


def result_of(
    fixed: MetaTensor, moving: MetaTensor, forward_mm: torch.Tensor, config: RegistrationConfig
) -> RegistrationResult:
    """As if a registration had found this displacement."""
    grids = Grid.of(fixed), Grid.of(moving)
    affine = np.eye(grids[0].dims + 1)
    basis = None if config.basis == "polynomial" else bases(config)
    rest = {"inverse_mm": -forward_mm, "warped_moving": moving, "warped_fixed": fixed, "history": [], "jacobian": {}}
    return RegistrationResult(
        affine=affine,
        forward_mm=forward_mm,
        **rest,
        fixed_grid=grids[0],
        moving_grid=grids[1],
        config=config,
        seed=0,
        seconds=0.0,
        basis=basis,
    )


def changed(**settings) -> RegistrationConfig:
    """The configuration of these tests with other settings."""
    return dataclasses.replace(CONFIG, **settings)
