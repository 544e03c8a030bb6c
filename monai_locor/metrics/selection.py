# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Input checks and voxel selection shared by all metrics."""

from __future__ import annotations

import torch

from ..geometry import Grid
from ..tensors import as_tensor

__all__ = ["check_displacement", "select", "spatial_mask"]


def check_displacement(displacement_mm: torch.Tensor, grid: Grid) -> None:
    """Raise ``ValueError`` for a displacement that is not ``(D, *grid.shape)`` with D = 2 or 3, or not finite."""
    if grid.dims not in (2, 3) or tuple(displacement_mm.shape) != (grid.dims, *grid.shape):
        raise ValueError(
            f"a displacement on the grid {grid.shape} must be (D, *grid.shape), got {tuple(displacement_mm.shape)}"
        )
    bad = int(sum((~torch.isfinite(component)).sum() for component in displacement_mm))
    if bad:
        raise ValueError(f"the displacement has {bad} values that are not finite")


def spatial_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Convert a mask ``(*shape)`` or ``(1, *shape)`` to a plain bool tensor ``(*shape)``, true above zero."""
    chosen = as_tensor(mask) > 0
    chosen = chosen[0] if chosen.ndim == len(shape) + 1 and chosen.shape[0] == 1 else chosen
    if tuple(chosen.shape) != tuple(shape):
        raise ValueError(f"the mask must be {tuple(shape)}, got {tuple(mask.shape)}")
    return chosen


def select(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Values ``(*shape)`` inside the mask, as ``(N,)``.

    Raises:
        ValueError: if the mask has another shape or is empty.
    """
    if mask is None:
        return values.flatten()
    chosen = spatial_mask(mask, tuple(values.shape)).to(values.device)
    if not chosen.any():
        raise ValueError("the mask is empty: there is no voxel to evaluate")
    return values[chosen]
