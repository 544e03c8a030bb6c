# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Between the voxels of images and the larger ones that a network works on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..geometry import identity_points, sample

__all__ = ["cropped", "pooled", "samples", "upsampled"]


def pooled(image: torch.Tensor, divisible: int, downsampling: int = 1) -> torch.Tensor:
    """What a network gets of ``(B, C, *spatial)``: means of ``downsampling`` voxels along each axis, to a divisible size.

    At the ends zeros are added, so that the size becomes a multiple of ``divisible * downsampling`` first.
    """
    multiple = divisible * downsampling
    padded = F.pad(image, [width for n in reversed(image.shape[2:]) for width in (0, -n % multiple)])
    if downsampling == 1:
        return padded
    return (F.avg_pool3d if padded.ndim == 5 else F.avg_pool2d)(padded, downsampling)


def cropped(field: torch.Tensor, shape: Sequence[int], downsampling: int = 1) -> torch.Tensor:
    """Of a field ``(B, D, *any)`` for a :func:`pooled` image what lies over the image's ``shape``."""
    for axis, n in enumerate(shape, start=2):
        field = field.narrow(axis, 0, -(-n // downsampling))
    return field


def upsampled(field: torch.Tensor, shape: Sequence[int], downsampling: int = 1, stride: int = 1) -> torch.Tensor:
    """A field on large voxels, ``(B, D, *any)`` in those, as one on the image's voxels, ``(B, D, *shape)`` in these;
    with a ``stride``, at the :func:`samples` of them alone.

    The large voxel i is centered on the image's position ``downsampling * i + (downsampling - 1) / 2``; linear in between.
    """
    if downsampling == 1 and stride == 1:
        return field
    points = (samples(identity_points(shape, field.device), len(shape), stride) - (downsampling - 1) / 2) / downsampling
    return sample(field, points.expand(len(field), *points.shape), padding_mode="border") * downsampling


def samples(image: torch.Tensor, dims: int, stride: int) -> torch.Tensor:
    """Every ``stride``-th voxel along each of the last ``dims`` axes, beginning with the one in the middle of the first few."""
    every: list[Any] = [slice(stride // 2, None, stride)] * dims
    return image[tuple([..., *every])]
