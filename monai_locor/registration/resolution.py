# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The resolution of images, measured by the width of their edges, and what follows from it for blurred images.

At an edge that is blurred by a Gaussian of standard deviation s, the integral of the squared second derivative is that of the
squared first derivative divided by ``2 s^2``. The ratio is taken in small blocks, and a few sharp edges, such as the border of
a field of view, hardly change the median over the blocks.

In MR and CT, edges are 0.45 to 1.3 voxels wide, in averages of PET and SPECT with voxels of 2 mm 2.3 to 2.6 voxels. Neighboring
samples of these are not independent, so the loss, an average over samples, must weigh less against the smoothness of the
deformation, and samples closer than the width of the edges add nothing (benchmarks/results/forms.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from .config import RegistrationConfig
from .schedule import PRESET_STAGES, Stage
from .start.prepare import PreparedImage

__all__ = ["edge_width", "edge_widths", "relative_blur", "resolved_stages", "smoother"]

BLOCK_SIZE = 8  # voxels
MIN_SLOPE = 0.01  # root mean square of a block, normalized intensity per voxel
MIN_CURVATURE = 1e-12  # squared normalized intensities
MAX_SHARP_WIDTH = 1.25  # voxels; width of the edges of images that are stored no finer than they are resolved


@torch.no_grad()
def edge_widths(image: PreparedImage) -> np.ndarray:
    """Return the standard deviation of the blur at edges along each axis of the grid, ``(D,)``, mm; of its sharpest channel.

    Zero for an image without contrast, and infinite along an axis of fewer than three voxels. Noise makes edges look sharper.
    """
    spacing = image.grid.spacing
    return np.array([min(_width(channel, image.weight, k) for channel in image.image) * h for k, h in enumerate(spacing)])


def edge_width(image: PreparedImage) -> float:
    """Return :func:`edge_widths` along the axis with the sharpest edges, mm; 0 if all axes have fewer than three voxels."""
    widths = edge_widths(image)
    return float(widths.min()) if np.isfinite(widths).any() else 0.0


def relative_blur(fixed: PreparedImage, moving: PreparedImage) -> float:
    """Return the width of the edges of the more blurred image, relative to the larger of the smallest voxel sides of both."""
    return max(edge_width(image) for image in (fixed, moving)) / max(float(i.grid.spacing.min()) for i in (fixed, moving))


def smoother(config: RegistrationConfig, blur: float, dims: int) -> RegistrationConfig:
    """Return the settings with a bending weight for images of which only a part of the samples is independent.

    The loss is an average over samples. Of the samples in a volume, ``(MAX_SHARP_WIDTH / blur) ** dims`` are independent. The
    weight is divided by this share, if it is below 1 and the settings leave the weight to the measure.

    Args:
        config: settings.
        blur: see :func:`relative_blur`.
        dims: number of dimensions.
    """
    if config.bending_weight is not None or blur <= MAX_SHARP_WIDTH:
        return config
    return dataclasses.replace(config, bending_weight=config.effective_bending_weight * (blur / MAX_SHARP_WIDTH) ** dims)


def resolved_stages(config: RegistrationConfig, stages: Sequence[Stage], blur: float) -> tuple[Stage, ...]:
    """Return the last stages of a preset without those whose previous stage has samples closer than the edges are wide.

    Args:
        config: settings. Stages other than those of the presets are kept.
        stages: stages still to run; the first one stays in any case.
        blur: see :func:`relative_blur`.

    >>> fast = RegistrationConfig.of("fast")
    >>> [[s.factor for s in resolved_stages(fast, fast.stages[4:], blur)] for blur in (1.2, 2.4, 4.8)]
    [[2, 1], [2], [2]]
    """
    if config.stages not in PRESET_STAGES:
        return tuple(stages)
    before = {stage: previous.factor for previous, stage in zip(config.stages, config.stages[1:], strict=False)}
    return tuple(stage for n, stage in enumerate(stages) if n == 0 or before[stage] > blur)


def _width(channel: torch.Tensor, weight: torch.Tensor | None, axis: int) -> float:
    """Return the median of the width over the blocks with contrast, voxels.

    Args:
        channel: intensities, ``(*spatial)``.
        weight: ``(1, *spatial)`` or None.
        axis: direction of the derivatives.
    """
    n = channel.shape[axis]
    if n < 3:
        return float("inf")
    before, middle, after = (channel.narrow(axis, k, n - 2) for k in range(3))
    slope = ((middle - before).square() + (after - middle).square()) / 2
    curvature = (before - 2 * middle + after).square()
    if weight is not None:  # intensities outside the mask are extrapolated
        inside = [weight[0].narrow(axis, k, n - 2) > 0 for k in range(3)]
        valid = (inside[0] & inside[1] & inside[2]).to(slope)
        slope, curvature = slope * valid, curvature * valid
    slopes, curvatures = _block_means(slope), _block_means(curvature)
    seen = slopes > MIN_SLOPE**2
    if not bool(seen.any()):
        return 0.0
    return float((slopes[seen] / (2 * curvatures[seen].clamp_min(MIN_CURVATURE))).sqrt().median())


def _block_means(values: torch.Tensor) -> torch.Tensor:
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[values.ndim - 1]
    return pool(values[None], [min(BLOCK_SIZE, n) for n in values.shape]).flatten()
