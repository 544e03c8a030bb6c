# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Size and distance of the windows of the default measure along each axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import Grid
from .config import RegistrationConfig
from .pyramid import sample_distances
from .schedule import picture_size

__all__ = ["WindowSizes", "window_sizes"]


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
