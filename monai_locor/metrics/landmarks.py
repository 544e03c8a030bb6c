# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Target registration error and inverse consistency, in millimeters."""

from __future__ import annotations

import torch

from ..geometry import Grid, inside, mapped_points, warp
from ..precision import guarded
from ..tensors import lengths
from .selection import check_displacement, select, spatial_mask

__all__ = ["inverse_consistency", "target_registration_error"]


@guarded
def target_registration_error(
    displacement_mm: torch.Tensor, truth_mm: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Distance between the mapped position of each point and its true position.

    Args:
        displacement_mm: ``(D, *shape)``, RAS mm.
        truth_mm: ``(D, *shape)``, RAS mm.
        mask: ``(*shape)`` or ``(1, *shape)``; points above zero are included, by default all.

    Returns:
        ``(N,)``, mm, float64. A displacement that is not finite gives an error that is not finite.

    Raises:
        ValueError: if the shapes do not match or the mask is empty.
    """
    if displacement_mm.shape != truth_mm.shape:
        raise ValueError(f"displacement and truth differ in shape: {tuple(displacement_mm.shape)}, {tuple(truth_mm.shape)}")
    difference = displacement_mm.double() - truth_mm.to(displacement_mm.device).double()
    return select(lengths(difference), mask)


@guarded
def inverse_consistency(
    forward_mm: torch.Tensor,
    fixed_grid: Grid,
    inverse_mm: torch.Tensor,
    moving_grid: Grid,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Distance between each fixed point and its image under the forward transform followed by the inverse one.

    The inverse field is linearly interpolated. Only fixed voxels that map inside the moving grid are included. The outermost
    voxels of the moving grid are excluded because the inverse is least reliable there.

    Args:
        forward_mm: ``(D, *fixed_grid.shape)``, RAS mm, fixed points to moving points.
        inverse_mm: ``(D, *moving_grid.shape)``, RAS mm, moving points to fixed points.
        mask: ``(*fixed_grid.shape)`` or ``(1, *fixed_grid.shape)``; fixed voxels above zero are included, by default all.

    Returns:
        ``(N,)``, mm, float64; empty if no fixed voxel maps inside the moving grid.

    Raises:
        ValueError: if a field is not on its grid or not finite, or the mask has another shape.
    """
    check_displacement(forward_mm, fixed_grid)
    check_displacement(inverse_mm, moving_grid)
    back = warp(inverse_mm.to(forward_mm.device), moving_grid, forward_mm, fixed_grid, padding_mode="border")
    counted = inside(mapped_points(fixed_grid, moving_grid, forward_mm), moving_grid.shape, margin=1.0)
    if mask is not None:
        counted &= spatial_mask(mask, fixed_grid.shape).to(counted.device)
    return lengths(forward_mm.double() + back)[counted]
