# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Center and contour levels of an image."""

from __future__ import annotations

import numpy as np
import torch

from ...geometry import Grid
from ...registration.start.prepare import smoothed

__all__ = ["OUTER_LEVEL", "bright_center", "contour_levels", "smoothed_outline"]

OUTER_LEVEL = 0.15  # of an image in [0, 1]: the outer edge of the anatomy


def bright_center(volume: np.ndarray) -> list[int]:
    """Voxel at the median position of the bright voxels of an image in [0, 1], along each axis."""
    bright = volume > 0.25
    if not bright.any():
        return [n // 2 for n in volume.shape]
    center = []
    for axis in range(volume.ndim):
        present = np.cumsum(bright.sum(tuple(a for a in range(volume.ndim) if a != axis)))
        center.append(int(np.searchsorted(present, present[-1] / 2)))
    return center


def smoothed_outline(volume: np.ndarray, grid: Grid) -> np.ndarray:
    """Smooth an image, ``(*grid)``, by a Gaussian of 0.7 % of the field of view, so that contours follow anatomy, not noise."""
    sigma = [0.007 * float(grid.extent.max()) / float(s) for s in grid.spacing]
    return smoothed(torch.from_numpy(volume)[None], sigma)[0].numpy()


def contour_levels(picture: np.ndarray) -> list[float]:
    """Contour levels of a picture in [0, 1], ascending: the outer edge, and the boundary between tissues."""
    inner = picture[picture > OUTER_LEVEL]
    if inner.size < 16 or np.ptp(inner) < 1e-3:
        return []
    return sorted({OUTER_LEVEL, float(np.quantile(inner, 0.85))})
