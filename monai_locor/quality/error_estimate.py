# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Estimation of the registration error of every voxel, from images and transform alone."""

from __future__ import annotations

import numpy as np
import torch

from ..geometry import Grid, separable
from ..precision import guarded
from ..tensors import plain
from .error_features import ErrorSamples, LocalFeatures, local_features
from .error_map import ErrorMap
from .error_model import ErrorModel

__all__ = ["determined_nodes", "estimate_error"]

MIN_MASS = 0.5  # share of a window whose samples lie in both fields of view and masks
MIN_CONTRAST = 0.03  # standard deviation in the window, of half the robust range: about 1.5 % of the range
MIN_DETERMINED = 0.5  # interpolation weight of determined nodes and of valid samples


@guarded
@torch.no_grad()
def estimate_error(
    fixed: torch.Tensor,
    fixed_grid: Grid,
    moving: torch.Tensor,
    moving_grid: Grid,
    forward_mm: torch.Tensor,
    fixed_weight: torch.Tensor | None = None,
    moving_weight: torch.Tensor | None = None,
) -> ErrorMap:
    """Estimate the error of a transform and a 90 % interval for every fixed voxel.

    Both images are compared at about half a million points, in Gaussian windows with a standard deviation of 2.5 and 5 times
    the distance of the points (6 and 12 mm in a head). The error is not determined where less than half of the window lies in
    both fields of view and masks, and where one of the images has a standard deviation below 1.5 % of its range in the larger
    window.

    The quantities are the local displacement of one image relative to the other and its standard deviation, in both directions
    (see :mod:`.local_shift`), the disagreement of the directions, the unexplained share of the variance, the contrast, and
    strain and bending of the transform. See :mod:`.error_model` for the calibration.

    Args:
        fixed, fixed_weight: fixed image and weights of its voxels, ``(1, *fixed_grid)``.
        moving, moving_weight: moving image and weights, ``(1, *moving_grid)``.
        fixed_grid, moving_grid: their grids.
        forward_mm: displacement, ``(D, *fixed_grid)``, RAS mm.

    Returns:
        the map, on the device of the displacement. It does not depend on the order of the axes and scales with the images.
    """
    forward_mm = plain(forward_mm).detach()
    samples = ErrorSamples.of((fixed, fixed_weight, fixed_grid), (moving, moving_weight, moving_grid), forward_mm)
    if samples is not None:
        found = local_features(samples, fixed_grid, forward_mm)
        known = determined_nodes(found)
        if bool(known.any()):
            return _map(found, known, fixed_grid)
    nothing = torch.full(fixed_grid.shape, torch.nan, device=forward_mm.device)
    return ErrorMap(nothing, nothing, nothing, fixed_grid)


def determined_nodes(found: LocalFeatures) -> torch.Tensor:
    """Nodes of the lattice at which the images hold information about the error, ``(*lattice)`` bool."""
    return (found.mass > MIN_MASS) & (found.contrast > MIN_CONTRAST)


def _map(found: LocalFeatures, known: torch.Tensor, grid: Grid) -> ErrorMap:
    """Apply the model on the lattice and interpolate between determined nodes."""
    model, step = ErrorModel.calibrated(), float(found.samples.grid.spacing[0])
    errors = step * model.errors(model.score(found.values, known))
    weight = known.to(errors)
    to_voxels = _interpolation(found.lattice, grid, errors)
    near = separable(to_voxels, weight[None])
    unknown = near <= MIN_DETERMINED
    unknown |= separable(_interpolation(found.samples.grid, grid, errors), found.samples.weight[None]) <= MIN_DETERMINED
    near.clamp_min_(MIN_DETERMINED)
    out = errors.new_empty(len(errors), *grid.shape)
    for channel, values in zip(out, errors * weight, strict=True):  # one map at a time, for the memory
        total = separable(to_voxels, values[None]).div_(near).masked_fill_(unknown, torch.nan)
        channel.copy_(total[0].half())  # half precision is enough, and its files are small
    return ErrorMap.of_channels(out, grid)


def _interpolation(source: Grid, target: Grid, like: torch.Tensor) -> list[torch.Tensor]:
    """A matrix of linear interpolation per axis, between grids with the same axes and center; constant beyond the ends."""
    out = []
    for axis, n in enumerate(source.shape):
        positions = (np.arange(target.shape[axis]) - (target.shape[axis] - 1) / 2) * target.spacing[axis] / source.spacing[axis]
        positions = np.clip(positions + (n - 1) / 2, 0, n - 1)
        weights = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(n)))
        out.append(torch.from_numpy(weights).to(like, non_blocking=True))
    return out
