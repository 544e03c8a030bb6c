# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The input of a registration network, and its prediction as a velocity for the engine."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from monai.networks.utils import eval_mode
from torch import nn

from ..errors import InputError
from ..geometry import Grid, from_voxels, warp
from ..networks.registration_network import RegistrationNetwork
from ..precision import guarded
from ..registration.config import RegistrationConfig
from ..registration.engine import RegistrationEngine
from ..registration.pyramid import image_features
from ..registration.run import optimize
from ..registration.start.initial import initial_affine
from ..registration.start.prepare import PreparedImage
from ..registration.start.start import Start
from ..transforms import derivative_magnitude

__all__ = ["align", "network_grid", "network_image", "predict_velocity"]

MIN_NETWORK_VOXELS = 8  # along an axis of the network's grid
# Standard deviation, voxels. With a third, as in the pyramid, the interpolation blur of a shift by a third of a voxel reduces
# the loss as much as the alignment of brains in the first hundreds of training steps.
SMOOTHING_SIGMA = 5 / 6


def network_grid(fixed: PreparedImage, spacing: float) -> Grid:
    """The grid of a network: the fixed image's field of view, axes nearest to R, A, S, isotropic voxels.

    Args:
        fixed: fixed image.
        spacing: voxel size, mm.

    Raises:
        InputError: when ``spacing`` is not positive, or gives fewer than eight voxels along an axis.
    """
    if not spacing > 0:
        raise InputError(f"the voxel size of the network must be positive, got {spacing!r} mm")
    grid = fixed.grid.resampled([spacing] * fixed.grid.dims)
    if min(grid.shape) < MIN_NETWORK_VOXELS:
        raise InputError(
            f"an image of {' x '.join(f'{mm:.0f}' for mm in fixed.grid.extent)} mm has {grid.shape} voxels of {spacing:g} mm, "
            f"too few for the network: {MIN_NETWORK_VOXELS} along each axis are needed; register without it, or with finer ones"
        )
    return grid


@guarded
def network_image(image: PreparedImage, matrix: np.ndarray | None, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """An image as the input of a network: smoothed to the voxels of ``grid``, sampled there, in [0, 1].

    Args:
        image: fixed or moving image.
        matrix: ``(D + 1, D + 1)``, from the world points of ``grid`` to those of the image, RAS mm; None for the
            identity.
        grid: see :func:`network_grid`.

    Returns:
        ``(1, *grid)`` intensities, 0 outside the image, and ``(1, *grid)`` weights in [0, 1].
    """
    smooth, weight = image_features(image, 3 * SMOOTHING_SIGMA * grid.spacing, False)  # smooths by a third of the step
    seen = image.grid if matrix is None else Grid(image.grid.shape, np.linalg.inv(matrix) @ image.grid.affine)
    valid = warp(torch.ones_like(smooth) if weight is None else weight, seen, None, grid)
    return warp(smooth.clamp(0, 1), seen, None, grid), valid


def align(fixed: PreparedImage, moving: PreparedImage, config: RegistrationConfig, how: str = "affine") -> np.ndarray:
    """The affine that is composed with a network's prediction.

    Args:
        config: its affine stages and initialization.
        how: ``"affine"`` runs the affine stages; ``"start"`` is their initial affine.

    Returns:
        ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.

    Raises:
        ValueError: for another ``how``.
    """
    if how not in ("affine", "start"):
        raise ValueError(f'alignment must be "affine" or "start", got {how!r}')
    initial = initial_affine(fixed, moving, config.initialization)
    if how == "start":
        return initial
    affine_only = dataclasses.replace(config, stages=tuple(s for s in config.stages if s.spacing is None))
    start = Start((fixed, moving), initial, search=config.multistart != "never")
    return optimize(RegistrationEngine(start, affine_only)).matrix()


@guarded
@torch.no_grad()
def predict_velocity(
    network: RegistrationNetwork, fixed: PreparedImage, moving: PreparedImage, matrix: np.ndarray, spacing: float
) -> torch.Tensor:
    """The stationary velocity that a network predicts on top of an affine.

    Args:
        network: of the images of :func:`network_image` and their derivative magnitudes per voxel.
        matrix: ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        spacing: voxel size of the images that the network was trained with, mm.

    Returns:
        ``(D, *fixed.grid)``, RAS mm.

    Raises:
        ValueError: when the network's output is not a velocity.
    """
    grid = network_grid(fixed, spacing)
    seen = [network_image(moving, matrix, grid), network_image(fixed, None, grid)]
    unit = np.eye(grid.dims)
    images = [torch.cat((image, derivative_magnitude(image, unit)))[None] for image, _ in seen]
    with eval_mode(*(m for m in (network.network,) if isinstance(m, nn.Module))):  # a module of the caller's
        velocity = network.predict(*images, *(weight[None] for _, weight in seen))
    return warp(from_voxels(velocity[0], grid), grid, None, fixed.grid, padding_mode="border")
