# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The parts of two images that a registration can reach.

A slab in the field of view of a whole body sees little of it, and what it cannot see only costs time and memory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from ...geometry import Grid, voxel_to_voxel
from .prepare import PreparedImage, prepare

__all__ = ["box_within", "parts_in_reach", "reachable", "reached_box"]

logger = logging.getLogger(__name__)

MARGIN = 0.5  # of the longest side of the field of view that comes, on every side of it
WORTH_IT = 0.5  # share of the voxels that may be left: with more, an image stays as it is


def reached_box(grid: Grid, other: Grid, matrix: np.ndarray, beyond: float = 0.0) -> tuple[slice, ...]:
    """The voxels of a grid that another field of view reaches, with a margin of half its longest side.

    From where they start, affine stages and deformation move the images by less than that; and a turn by 35 degrees takes
    no corner of a box further out.

    Args:
        other: field of view that comes.
        matrix: ``(D + 1, D + 1)``, from its world points to those of ``grid``, RAS mm.
        beyond: further margin, mm.

    Returns:
        one slice an axis; an empty one where they are apart.
    """
    sides = matrix[:-1, :-1] @ (other.affine[:-1, :-1] * np.array(other.shape))
    margin = MARGIN * float(np.linalg.norm(sides, axis=0).max()) + beyond
    corners = voxel_to_voxel(other, grid, matrix) @ np.vstack((_corner_index(other.shape), np.ones(2**other.dims)))
    reach = margin * np.linalg.norm(np.linalg.inv(grid.affine[:-1, :-1]), axis=1)
    low = np.clip(np.floor(corners[:-1].min(1) - reach), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(corners[:-1].max(1) + reach) + 1, low, grid.shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _corner_index(shape: tuple[int, ...]) -> np.ndarray:
    """Of the outer corners of the outer voxels, ``(D, 2 ** D)``."""
    return np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in shape], indexing="ij")).reshape(len(shape), -1)


def reachable(image: PreparedImage, other: Grid, matrix: np.ndarray, quantile: float, beyond: float = 0.0) -> PreparedImage:
    """The part of an image that :func:`reached_box` says, where that is half of it or less; else the image itself.

    The intensities are those of the part, normalized anew: what is out of reach has no say in the range.

    Args:
        other, matrix, beyond: see :func:`reached_box`.
        quantile: see :func:`monai_locor.registration.start.prepare.prepare`.
    """
    box = reached_box(image.grid, other, matrix, beyond)
    part = image.grid.shape if any(b.stop <= b.start for b in box) else tuple(b.stop - b.start for b in box)
    if np.prod(part) > WORTH_IT * np.prod(image.grid.shape):
        return image
    inside = (slice(None), *box)
    weight = None if image.weight is None else image.weight[inside]
    if weight is not None and not bool(weight.any()):
        return image  # the registration says better what is wrong
    logger.info("of an image of %s voxels the part within reach is used, %s", image.grid.shape, part)
    return prepare(image.image[inside], weight, quantile, image.device, image.grid.cropped(box))


def box_within(part: Grid, whole: Grid) -> tuple[slice, ...]:
    """Where a part of a grid lies in it, in voxels."""
    start = np.round(voxel_to_voxel(part, whole)[:-1, -1]).astype(int)
    return tuple(slice(int(a), int(a) + n) for a, n in zip(start, part.shape, strict=True))


def parts_in_reach(
    whole: tuple[PreparedImage, PreparedImage],
    initial: np.ndarray,
    quantile: float,
    given: Sequence[torch.Tensor | None],
    fixed_stays: bool,
) -> tuple[PreparedImage, PreparedImage]:
    """The parts of the fixed and the moving image that a registration uses.

    Args:
        whole: both images.
        initial: where it starts, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        given: velocities and displacements on the fixed grid that it starts from, ``(D, *fixed)``, RAS mm: as far as they
            go, it may go further. With any, the fixed image stays whole.
        fixed_stays: whether it stays whole for another reason.
    """
    fixed, moving = whole
    fields = [x for x in given if x is not None]
    beyond = max((float(x.square().sum(0).max().sqrt()) for x in fields), default=0.0)
    part = reachable(moving, fixed.grid, initial, quantile, beyond)
    if not fixed_stays and not fields:
        fixed = reachable(fixed, moving.grid, np.linalg.inv(initial), quantile)
    return fixed, part
