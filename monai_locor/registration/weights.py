# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The weights of the voxels of an image, from its mask and its finite voxels."""

from __future__ import annotations

import torch

from ..errors import InputError
from ..geometry import Grid
from ..io import ImageSource
from ..io.masks import mask_on_grid

__all__ = ["voxel_weight"]


def voxel_weight(role: str, mask: ImageSource | None, valid: torch.Tensor | None, grid: Grid) -> torch.Tensor | None:
    """Return the weights of the voxels, ``(1, *spatial)``; None if all count.

    Args:
        role: ``"fixed"`` or ``"moving"``.
        mask: mask on any grid, or None.
        valid: voxels that count without the mask, ``(1, *spatial)`` bool; None for all.
        grid: grid of the image.

    Raises:
        InputError: if the mask holds none of the valid voxels.
    """
    if mask is None:
        return None if valid is None else valid.float()
    weight = mask_on_grid(mask, role, grid)
    weight = weight if valid is None else weight * valid.to(weight)
    if float(weight.sum()) == 0:
        raise InputError(f"{role} mask: holds only voxels where its image is NaN or infinite; give one that covers the rest")
    return weight
