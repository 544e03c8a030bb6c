# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Cropping of two images to the parts that a registration can reach.

For instance, a slab overlaps only a small part of a whole-body image; processing the rest would waste time and memory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from ...geometry import Grid, voxel_to_voxel
from .prepare import PreparedImage, prepare

__all__ = ["box_within", "parts_in_reach", "reachable", "reached_box", "reached_part"]

logger = logging.getLogger(__name__)

REACH_MARGIN = 0.5  # fraction of the longest side of the other field of view, added on every side
MAX_CROPPED_SHARE = 0.5  # fraction of the voxels, above which an image is not cropped


def reached_box(grid: Grid, other: Grid, matrix: np.ndarray, beyond: float = 0.0) -> tuple[slice, ...]:
    """Return the voxels of a grid within reach of another field of view, with a margin of half its longest side.

    The margin exceeds the displacements by the affine stages and the deformation, and those of the corners of a box by a
    rotation of 35 degrees.

    Args:
        other: the other field of view.
        matrix: ``(D + 1, D + 1)``, from its world points to those of ``grid``, RAS mm.
        beyond: additional margin, mm.

    Returns:
        one slice per axis, empty if there is no overlap.
    """
    sides = matrix[:-1, :-1] @ (other.affine[:-1, :-1] * np.array(other.shape))
    margin = REACH_MARGIN * float(np.linalg.norm(sides, axis=0).max()) + beyond
    corners = voxel_to_voxel(other, grid, matrix) @ np.vstack((_corner_index(other.shape), np.ones(2**other.dims)))
    reach = margin * np.linalg.norm(np.linalg.inv(grid.affine[:-1, :-1]), axis=1)
    low = np.clip(np.floor(corners[:-1].min(1) - reach), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(corners[:-1].max(1) + reach) + 1, low, grid.shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _corner_index(shape: tuple[int, ...]) -> np.ndarray:
    """Return the voxel coordinates of the corners of the field of view, ``(D, 2 ** D)``."""
    return np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in shape], indexing="ij")).reshape(len(shape), -1)


def reached_part(grid: Grid, other: Grid, matrix: np.ndarray, beyond: float = 0.0) -> tuple[slice, ...] | None:
    """Return :func:`reached_box` if it contains at most half of the voxels; otherwise None, for the whole image."""
    box = reached_box(grid, other, matrix, beyond)
    part = grid.shape if any(b.stop <= b.start for b in box) else tuple(b.stop - b.start for b in box)
    return None if np.prod(part) > MAX_CROPPED_SHARE * np.prod(grid.shape) else box


def reachable(image: PreparedImage, other: Grid, matrix: np.ndarray, quantile: float, beyond: float = 0.0) -> PreparedImage:
    """Crop an image to :func:`reached_part`.

    The intensities of the cropped image are normalized again by its own range.

    Args:
        other, matrix, beyond: see :func:`reached_box`.
        quantile: see :func:`monai_locor.registration.start.prepare.prepare`.
    """
    box = reached_part(image.grid, other, matrix, beyond)
    if box is None:
        return image
    inside = (slice(None), *box)
    part = image.grid.cropped(box)
    weight = None if image.weight is None else image.weight[inside]
    if weight is not None and not bool(weight.any()):
        return image  # the registration reports the missing overlap
    logger.info("cropped an image of %s voxels to the part within reach, %s", image.grid.shape, part.shape)
    return prepare(image.image[inside], weight, quantile, image.device, part)


def box_within(part: Grid, whole: Grid) -> tuple[slice, ...]:
    """Return the slices of a grid that contain a part of it."""
    start = np.round(voxel_to_voxel(part, whole)[:-1, -1]).astype(int)
    return tuple(slice(int(a), int(a) + n) for a, n in zip(start, part.shape, strict=True))


def parts_in_reach(
    whole: tuple[PreparedImage, PreparedImage],
    initial: np.ndarray,
    quantile: float,
    given: Sequence[torch.Tensor | None],
    fixed_stays: bool,
) -> tuple[PreparedImage, PreparedImage]:
    """Return the parts of the fixed and the moving image to register.

    Args:
        whole: both images.
        initial: initial affine, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        given: initial velocities and displacements, ``(D, *fixed)``, RAS mm, whose length is added to the margin. If there
            are any, the fixed image is not cropped.
        fixed_stays: do not crop the fixed image.
    """
    fixed, moving = whole
    fields = [x for x in given if x is not None]
    beyond = max((float(x.square().sum(0).max().sqrt()) for x in fields), default=0.0)
    part = reachable(moving, fixed.grid, initial, quantile, beyond)
    if not fixed_stays and not fields:
        fixed = reachable(fixed, moving.grid, np.linalg.inv(initial), quantile)
    return fixed, part
