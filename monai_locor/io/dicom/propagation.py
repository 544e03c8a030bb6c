# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Resampling of regions, such as those of an RTSTRUCT or SEG object, slice by slice of the fixed image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...geometry import Grid, SpatialTransform

if TYPE_CHECKING:
    import torch

__all__ = ["Region", "RegionSlice", "regions_on_slices"]

LEVEL = 0.5  # of the covered fraction, at the boundary of a region


@dataclass(frozen=True, eq=False)
class Region:
    """The covered fraction of voxels in a box that contains a region.

    Attributes:
        values: ``(X, Y, Z)`` float32, from 0 to 1; outside of the box, it is 0.
        corner: index of the first voxel of the box on the grid of the image, ``(3,)``; may be negative.
    """

    values: np.ndarray
    corner: np.ndarray


@dataclass(frozen=True, eq=False)
class RegionSlice:
    """A region on one slice of the fixed image.

    Attributes:
        region: index of the region.
        k: index of the slice.
        values: ``(X, Y)`` float32, the covered fraction of pixels in a box of the slice; outside of the box, it is 0.
        corner: index of the first pixel of the box, ``(2,)``.
        at_edge: whether the region reaches the first or last voxel of the fixed image along an axis.
    """

    region: int
    k: int
    values: np.ndarray
    corner: np.ndarray
    at_edge: bool


def regions_on_slices(
    regions: Sequence[Region], transform: SpatialTransform, moving: Grid, fixed: Grid
) -> Iterator[RegionSlice]:
    """Resample regions of the moving image to the slices of the fixed image, with linear interpolation.

    Args:
        regions: regions; their boundary is where the covered fraction is 0.5.
        transform: from fixed to moving points.
        moving: grid of the regions.
        fixed: grid of the fixed image.

    Yields:
        slice by slice, the regions that the slice shows.
    """
    import torch

    from ...geometry import mapped_points
    from ...geometry.sampling import sample

    images = [torch.from_numpy(np.ascontiguousarray(region.values))[None, None] for region in regions]
    for k in range(fixed.shape[2]):
        part = fixed.cropped((slice(0, fixed.shape[0]), slice(0, fixed.shape[1]), slice(k, k + 1)))
        points = mapped_points(part, moving, transform.displacement(part).cpu())[..., 0]
        for index, (region, image) in enumerate(zip(regions, images, strict=True)):
            box = _box(points, region)
            if box is None:
                continue
            inner = points[:, box[0], box[1]] - torch.from_numpy(region.corner).to(points)[:, None, None]
            values = sample(image, inner.float()[None])[0, 0].numpy()
            if (values >= LEVEL).any():
                edge = k in (0, fixed.shape[2] - 1) or _at_border(values >= LEVEL, box, fixed.shape)
                yield RegionSlice(index, k, values, np.array([side.start for side in box]), edge)


def _box(points: torch.Tensor, region: Region) -> tuple[slice, slice] | None:
    """The pixels that map into the box of a region, and one more on each side; None if there are none."""
    inside = None
    for axis, (low, count) in enumerate(zip(region.corner.tolist(), region.values.shape, strict=True)):
        within = (points[axis] > low - 1) & (points[axis] < low + count)
        inside = within if inside is None else inside & within
    assert inside is not None
    sides = []
    for axis in (1, 0):
        used = inside.any(axis).nonzero()[:, 0]
        if not len(used):
            return None
        sides.append(slice(max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, inside.shape[1 - axis])))
    return sides[0], sides[1]


def _at_border(values: np.ndarray, box: tuple[slice, slice], shape: Sequence[int]) -> bool:
    """Whether a mask in a box of a slice has a pixel at the border of the slice."""
    x, y = box
    sides = (
        (x.start == 0, values[0]),
        (x.stop == shape[0], values[-1]),
        (y.start == 0, values[:, 0]),
        (y.stop == shape[1], values[:, -1]),
    )
    return any(bool(reaches and line.any()) for reaches, line in sides)
