# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Resampling of images that are large compared with memory, block by block."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ..tensors import plain
from .grid import Grid
from .intensities import as_type, warp_intensities
from .warping import mapped_points

if TYPE_CHECKING:
    from .transform import SpatialTransform

__all__ = ["needed_box", "warp_in_blocks"]

BLOCK_VOXELS = 2**20
MARGINS = {"nearest": 1, "bilinear": 2, "lanczos": 5, "bspline": 24}  # voxels: supports; the spline's prefilter to 1e-12


def warp_in_blocks(
    transform: SpatialTransform,
    image: torch.Tensor,
    image_grid: Grid,
    grid: Grid,
    mode: str = "bilinear",
    fill: Sequence[float] | None = None,
) -> torch.Tensor:
    """Resample the moving image to a grid in fixed space, as :meth:`.SpatialTransform.warp`, block by block.

    Only the part of the image that a block needs is converted to float, so the memory is that of the image and the result.

    Args:
        image: ``(C, *image_grid.shape)``, any real dtype.
        mode: ``"bilinear"``, ``"nearest"``, ``"bspline"`` or ``"lanczos"``.
        fill: value of each channel outside the image; zero if not given.

    Returns:
        ``(C, *grid.shape)`` with the dtype of the image; interpolated values of integer types are rounded. In memory, the
        channels are the fastest axis and the first spatial axis the next one, as in files of pictures.
    """
    values = plain(image)
    back = torch.tensor(fill or [0.0] * len(values), dtype=torch.float32).reshape(-1, *[1] * grid.dims)
    out = torch.empty((*reversed(grid.shape), len(values)), dtype=values.dtype).permute(*reversed(range(grid.dims + 1)))
    for box in _blocks(grid.shape):
        part = grid.cropped(box)
        shift = transform.displacement(part)
        source = needed_box(mapped_points(part, image_grid, shift), image_grid.shape, MARGINS[mode])
        channels_in_box = (slice(None), *box)
        target = out[channels_in_box]
        if source is None:
            target.copy_(as_type(back, values.dtype).expand(target.shape))
            continue
        channels_in_source = (slice(None), *source)
        some = values[channels_in_source]
        target.copy_(warp_intensities(some, image_grid.cropped(source), shift, part, mode, back))
    return out


def _blocks(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    side = max(1, round(BLOCK_VOXELS ** (1 / len(shape))))
    starts = itertools.product(*(range(0, n, side) for n in shape))
    return (tuple(slice(first, min(first + side, n)) for first, n in zip(start, shape, strict=True)) for start in starts)


def needed_box(points: torch.Tensor, shape: Sequence[int], margin: int) -> tuple[slice, ...] | None:
    """The box of an image that is needed to sample it at points ``(D, *any)``; None if they all lie outside.

    It starts at even indices, since ties between nearest voxels go to the even index, and has two voxels along each axis.
    """
    flat = points.flatten(1)
    low, high = (flat.amin(1).floor() - margin).long().tolist(), (flat.amax(1).ceil() + margin).long().tolist()
    if any(b < 0 or a >= n for a, b, n in zip(low, high, shape, strict=True)):
        return None
    starts = [max(min(a, n - 2), 0) // 2 * 2 for a, n in zip(low, shape, strict=True)]
    return tuple(slice(a, min(max(b + 1, a + 2), n)) for a, b, n in zip(starts, high, shape, strict=True))
