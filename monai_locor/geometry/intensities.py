# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Interpolation of intensities of any type, with a background that is not zero and voxels without a value."""

from __future__ import annotations

import torch

from .grid import Grid
from .warping import warp

__all__ = ["as_type", "warp_intensities"]

EXACT_IN_FLOAT32 = {  # dtypes that float32 represents exactly
    *(torch.float32, torch.float16, torch.bfloat16),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16),
}


def warp_intensities(
    values: torch.Tensor,
    grid: Grid,
    displacement_mm: torch.Tensor,
    target: Grid,
    mode: str = "bilinear",
    background: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """:func:`.warping.warp` of intensities of any real dtype, which is kept.

    Voxels that are NaN or infinite have no value. A result is NaN if they have half of its weight or more in linear
    interpolation, else it is interpolated from the others.

    Args:
        values: ``(C, *grid.shape)``.
        grid, displacement_mm, target, mode: see :func:`.warping.warp`.
        background: value outside the image: one, or one per channel ``(C, 1, ...)``; by default the smallest finite one.

    Returns:
        ``(C, *target.shape)``; integers are rounded and clamped to the range of the type, bools are true from 0.5 on.
    """
    numbers = values.to(torch.float32 if values.dtype in EXACT_IN_FLOAT32 else torch.float64)
    known = numbers.isfinite() if values.is_floating_point() else None
    if known is None or bool(known.all()):
        shift = numbers.min() if background is None else background
        return as_type(warp(numbers - shift, grid, displacement_mm, target, mode) + shift, values.dtype)
    if background is None:
        background = torch.where(known.any(), torch.where(known, numbers, torch.inf).min(), 0.0)
    linear = "nearest" if mode == "nearest" else "bilinear"
    missing = warp((~known).to(numbers), grid, displacement_mm, target, linear)
    out = warp(torch.where(known, numbers - background, 0), grid, displacement_mm, target, mode)
    if mode == "bilinear":
        out = out / (1 - missing).clamp_min(0.5)  # those without a value have no weight
    return as_type(torch.where(missing < 0.5, out + background, torch.nan), values.dtype)


def as_type(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert interpolated values to a type: rounded, and within the range of an integer type."""
    if dtype == torch.bool:
        return values >= 0.5
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)  # splines and sincs overshoot
        values = values.round().clamp(limits.min, limits.max)
    return values.to(dtype)
