# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Size and distance of the windows of the default measure along each axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import Grid
from .config import RegistrationConfig
from .pyramid import FOREGROUND_MARGIN, sample_distances
from .schedule import picture_size

__all__ = ["WindowSizes", "margins_of", "relative_window_size", "window_sizes"]

MIN_MARGIN = 3  # samples
NEAR_FACTOR = 2.0  # sample distance up to which the images are taken to agree to a few samples


@dataclass(frozen=True)
class WindowSizes:
    """Windows along each axis, in samples.

    Attributes:
        sigma: standard deviation of the Gaussian.
        stride: distance between windows.
    """

    sigma: tuple[float, ...]
    stride: tuple[float, ...]


def window_sizes(config: RegistrationConfig, grid: Grid, factor: float) -> WindowSizes:
    """Return the windows at a stage: isotropic in mm, with as many samples as in isotropic images.

    ``kernel_sigma`` and ``stride`` of the settings are in samples of isotropic images. Elsewhere they are in units of the
    geometric mean of the sample distances. Windows are not closer than one sample, or than the setting if it is smaller.

    Args:
        config: settings.
        grid: grid of the reference image of a direction.
        factor: sample distance of the stage, in units of the smallest voxel side of the image.

    Returns:
        one value per axis, rounded to six digits, so that rounding errors of the affine do not matter.
    """
    step = sample_distances(grid, factor)
    step = np.where(np.array(grid.shape) == 1, step.min(), step) / step.min()  # a single slice has no thickness
    ratios = np.round(np.prod(step) ** (1 / len(step)) / step, 6)
    stride = np.maximum(config.stride * ratios, min(config.stride, 1.0))
    sigma = config.window_sigma(grid.dims, picture_size(grid))
    return WindowSizes(tuple((sigma * ratios).tolist()), tuple(stride.tolist()))


def relative_window_size(config: RegistrationConfig, grid: Grid) -> float:
    """Return the window of the default measure in units of ``kernel_sigma``: one, except in large pictures; one for others."""
    if config.similarity != "locor":
        return 1.0
    return config.window_sigma(grid.dims, picture_size(grid)) / config.kernel_sigma


def margins_of(config: RegistrationConfig, grid: Grid, factor: float) -> tuple[int, ...]:
    """Return how many samples around the foreground the loss covers along each axis at a stage.

    At a coarse stage, anatomy may lie far outside the foreground of the other image. At a fine one that comes after a coarse
    deformable one, a window that reaches the foreground is enough; others see air only. That is for windows: other measures
    keep the same margin at all stages, as air belongs to their histograms.

    Args:
        config, grid, factor: see :func:`window_sizes`.
    """
    coarse = any(s.spacing is not None and s.factor > NEAR_FACTOR and s.iterations > 0 for s in config.stages)
    if config.similarity != "locor" or factor > NEAR_FACTOR or not coarse:
        return (FOREGROUND_MARGIN,) * grid.dims
    reach = config.truncated * np.array(window_sizes(config, grid, factor).sigma)
    return tuple(np.clip(np.ceil(reach).astype(int), MIN_MARGIN, FOREGROUND_MARGIN).tolist())
