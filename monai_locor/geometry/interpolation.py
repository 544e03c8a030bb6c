# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Interpolation of images and label maps: cubic B-spline, Lanczos, smooth labels.

Images are mirrored at their outermost voxel centers and extend half a voxel beyond them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from ..precision import guarded
from .axiswise import separable
from .bspline import CUBIC_NODE_VALUES, cubic_bspline
from .sampling import SIGNED_TYPES

__all__ = ["SMOOTH_MODES", "sample_labels", "sample_smooth", "spline_coefficients"]

LANCZOS = 3  # lobes of the window: six voxels along each axis, as in ANTs and ITK
#: interpolation modes with wide kernels, and their width in voxels along each axis
SMOOTH_MODES = {"bspline": 4, "lanczos": 2 * LANCZOS}


@guarded
def spline_coefficients(image: torch.Tensor) -> torch.Tensor:
    """Coefficients of the cubic B-spline that interpolates an image (Unser 1999, doi 10.1109/79.799930).

    Args:
        image: ``(C, *spatial)``, floating point.

    Returns:
        coefficients of the same shape.
    """
    return separable([_prefilter(n).to(image) for n in image.shape[1:]], image)


def _prefilter(size: int) -> torch.Tensor:
    """Matrix from values to coefficients along an axis: the inverse of the matrix of spline values at the voxels."""
    values = torch.zeros(size, size, dtype=torch.float64)
    for shift, weight in CUBIC_NODE_VALUES.items():
        column = _mirrored(torch.arange(size) + shift, size)
        values[torch.arange(size), column] += weight
    return torch.linalg.inv(values)


@guarded
def sample_smooth(image: torch.Tensor, points: torch.Tensor, mode: str) -> torch.Tensor:
    """Sample an image at voxel positions.

    Args:
        image: ``(C, *spatial)``; for ``"bspline"`` its :func:`spline_coefficients`.
        points: ``(D, *out)``, voxels.
        mode: ``"bspline"`` (cubic) or ``"lanczos"`` (windowed sinc).

    Returns:
        ``(C, *out)`` with the dtype of the image, zero outside.
    """
    weigh: Callable[[torch.Tensor], torch.Tensor] = cubic_bspline if mode == "bspline" else _lanczos
    shape, flat = image.shape[1:], points.flatten(1)
    axes = [_taps(flat[axis], n, SMOOTH_MODES[mode], weigh) for axis, n in enumerate(shape)]
    voxels, out = image.flatten(1), image.new_zeros(len(image), flat.shape[1])
    for index, weight in _products(axes, shape):
        out += voxels[:, index] * weight.to(image)
    return (out * _within(flat, shape)).reshape(-1, *points.shape[1:])


@guarded
def sample_labels(labels: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The label with the largest linear interpolation weight at each position: the argmax of interpolated indicators.

    No new labels arise, boundaries are smoother than with nearest-neighbor interpolation, and memory is independent of the
    number of labels. Ties are resolved in favor of the nearest voxel.

    Args:
        labels: ``(C, *spatial)``, any type.
        points: ``(D, *out)``, voxels.

    Returns:
        ``(C, *out)`` with the dtype of the labels, zero outside.
    """
    shape, flat = labels.shape[1:], points.flatten(1)
    near = [flat[axis].round().clamp(0, n - 1).long() for axis, n in enumerate(shape)]
    stored = labels.view(SIGNED_TYPES[labels.dtype]) if labels.dtype in SIGNED_TYPES else labels
    voxels = stored.flatten(1)
    axes = [_taps(flat[axis], n, 2, lambda x: (1 - x.abs()).clamp_min(0)) for axis, n in enumerate(shape)]
    corners = [(voxels[:, index], weight) for index, weight in _products(axes, shape)]
    best = voxels[:, _index(near, shape)]
    most = _share(best, corners)
    for value, _ in corners:
        share = _share(value, corners)
        wins = share > most + 1e-6
        best, most = torch.where(wins, value, best), torch.where(wins, share, most)
    out = torch.where(_within(flat, shape), best, torch.zeros_like(best)).reshape(-1, *points.shape[1:])
    return out.view(labels.dtype) if labels.dtype in SIGNED_TYPES else out


def _share(value: torch.Tensor, corners: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Total weight of the corners that have this value."""
    total = torch.zeros(value.shape, dtype=corners[0][1].dtype, device=value.device)
    for other, weight in corners:
        total += weight * (other == value)
    return total


def _lanczos(x: torch.Tensor) -> torch.Tensor:
    return torch.sinc(x) * torch.sinc(x / LANCZOS) * (x.abs() < LANCZOS)


def _taps(
    position: torch.Tensor, size: int, count: int, weigh: Callable[[torch.Tensor], torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Indices and weights, each ``(N,)``, of the voxels around positions on one axis; weights sum to one."""
    first = position.nan_to_num(0).clamp(-size - count, 2 * size + count).floor() - (count / 2 - 1)
    found = [(first + i, weigh(position - first - i)) for i in range(count)]
    total = torch.stack([weight for _, weight in found]).sum(0)
    total = torch.where(total.abs() > 1e-6, total, torch.ones_like(total))
    return [(_mirrored(index.long(), size), weight / total) for index, weight in found]


def _products(
    axes: Sequence[list[tuple[torch.Tensor, torch.Tensor]]], shape: Sequence[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Indices into the flattened image and weights, for all combinations of the voxels of each axis."""
    for taps in itertools.product(*axes):
        yield _index([index for index, _ in taps], shape), math.prod((w for _, w in taps[1:]), start=taps[0][1])


def _index(indices: Sequence[torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    out = torch.zeros_like(indices[0])
    for index, n in zip(indices, shape, strict=True):
        out = out * n + index
    return out


def _mirrored(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror indices beyond the ends of an axis at its outermost voxel centers."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * (size - 1))
    return torch.minimum(index, 2 * (size - 1) - index)


def _within(points: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Mask of the positions in the image, which extends half a voxel beyond the outermost voxel centers."""
    inside = torch.ones_like(points[0], dtype=torch.bool)
    for axis, n in enumerate(shape):
        inside &= (points[axis] >= -0.5) & (points[axis] <= n - 0.5)
    return inside
