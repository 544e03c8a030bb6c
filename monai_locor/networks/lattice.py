# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Maps between the voxels of images and the larger voxels of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..geometry import identity_points, sample

__all__ = ["cropped", "pooled", "samples", "upsampled"]


def pooled(image: torch.Tensor, divisible: int, downsampling: int = 1) -> torch.Tensor:
    """Input of a network from ``(B, C, *spatial)``: means of ``downsampling`` voxels along each axis, of a divisible size.

    The image is first padded with zeros at the ends to a multiple of ``divisible * downsampling``.
    """
    multiple = divisible * downsampling
    padded = F.pad(image, [width for n in reversed(image.shape[2:]) for width in (0, -n % multiple)])
    if downsampling == 1:
        return padded
    return (F.avg_pool3d if padded.ndim == 5 else F.avg_pool2d)(padded, downsampling)


def cropped(field: torch.Tensor, shape: Sequence[int], downsampling: int = 1) -> torch.Tensor:
    """The part of a field ``(B, D, *any)`` for a :func:`pooled` image that covers the image's ``shape``."""
    for axis, n in enumerate(shape, start=2):
        field = field.narrow(axis, 0, -(-n // downsampling))
    return field


def upsampled(field: torch.Tensor, shape: Sequence[int], downsampling: int = 1, stride: int = 1) -> torch.Tensor:
    """A field on large voxels, ``(B, D, *any)`` in units of these, as a field on the image's voxels and in their units,
    ``(B, D, *shape)``; with a ``stride``, only at the :func:`samples` of the image.

    The large voxel i is centered at position ``downsampling * i + (downsampling - 1) / 2``. Interpolation is linear.
    """
    if downsampling == 1 and stride == 1:
        return field
    points = (samples(identity_points(shape, field.device), len(shape), stride) - (downsampling - 1) / 2) / downsampling
    return sample(field, points.expand(len(field), *points.shape), padding_mode="border") * downsampling


def samples(image: torch.Tensor, dims: int, stride: int) -> torch.Tensor:
    """Every ``stride``-th voxel along each of the last ``dims`` axes, starting at voxel ``stride // 2``."""
    every: list[Any] = [slice(stride // 2, None, stride)] * dims
    return image[tuple([..., *every])]
