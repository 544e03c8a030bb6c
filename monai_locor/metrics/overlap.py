# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""How well two label maps overlap, label by label."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from ..geometry import Grid
from ..tensors import plain

__all__ = ["common_labels", "dice_per_label", "hausdorff_per_label", "mean_over_labels"]

LEAST_VOXELS = 50  # of a label that counts


def dice_per_label(fixed: torch.Tensor, moved: torch.Tensor, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Overlap of each label, ``2 |A and B| / (|A| + |B|)`` (Dice 1945, doi 10.2307/1932409).

    Args:
        fixed: ``(1, *S)``, whole numbers of any type.
        moved: ``(1, *S)``, the other label map on the same grid.
        labels: which ones; by default all of the fixed map but 0, the background.

    Returns:
        label to Dice in [0, 1], sorted; labels that are absent in the fixed map are left out, one that only the moved map
        lacks scores 0.

    Raises:
        ValueError: when the shapes differ.
    """
    fixed, moved = _checked(fixed, moved)
    present = torch.cat((fixed.flatten(), moved.flatten())).unique()
    of_fixed, of_moved = (torch.searchsorted(present, i.to(present).flatten()) for i in (fixed, moved))
    sizes = [i.bincount(minlength=len(present)).tolist() for i in (of_fixed, of_moved, of_fixed[of_fixed == of_moved])]
    found = {int(label): counts for label, *counts in zip(present.tolist(), *sizes)}
    wanted = _wanted(found, labels)
    return {label: 2 * both / (a + b) for label, (a, b, both) in found.items() if label in wanted and a}


def hausdorff_per_label(
    fixed: torch.Tensor,
    moved: torch.Tensor,
    grid: Grid,
    percentile: float = 95,
    labels: Iterable[int] | None = None,
) -> dict[int, float]:
    """Distance between the surfaces of each label, the larger of both directions, by MONAI.

    The percentile is one over the surface's voxels. The Learn2Reg challenge weighs them by their area instead (DeepMind's
    ``surface-distance``), which gives slightly other numbers.

    Args:
        fixed: ``(1, *S)``, whole numbers of any type.
        moved: ``(1, *S)``, the other label map on the same grid.
        grid: of both; its voxel size makes millimeters of voxels.
        percentile: of the distances; 100 is the Hausdorff distance itself.
        labels: which ones; by default all of the fixed map but 0, the background.

    Returns:
        label to mm, sorted; labels that are absent in the fixed map are left out, one that only the moved map lacks is NaN.

    Raises:
        ValueError: when the shapes differ or are not the grid's.
        ImportError: without SciPy, which MONAI computes distances with.
    """
    fixed, moved = _checked(fixed, moved)
    if tuple(fixed.shape[1:]) != grid.shape:
        raise ValueError(f"label maps of shape {tuple(fixed.shape)} do not lie on a grid of shape {grid.shape}")
    inside = {int(label) for label in fixed.unique().tolist()}
    wanted = sorted(_wanted(inside, labels) & inside)
    return {label: _distance(fixed == label, moved == label, grid, percentile) for label in wanted}


def common_labels(fixed: torch.Tensor, moving: torch.Tensor, least: int = LEAST_VOXELS) -> list[int]:
    """Labels by which two subjects can be compared: those of the fixed map that the moving one has, too.

    Args:
        fixed: ``(1, *S)``, whole numbers of any type.
        moving: ``(1, *T)``, on any grid.
        least: voxels that a label must have in the fixed map: few of them say little of an overlap.

    Returns:
        sorted, without 0, the background.
    """
    present = {int(label) for label in _numbers(moving).unique().tolist()}
    labels, counts = _numbers(fixed).unique(return_counts=True)
    return [int(n) for n, size in zip(labels.tolist(), counts.tolist()) if n and size >= least and int(n) in present]


def mean_over_labels(values: dict[int, float]) -> float:
    """Mean of the values that are numbers; NaN when there is none."""
    numbers = [value for value in values.values() if not math.isnan(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _distance(first: torch.Tensor, second: torch.Tensor, grid: Grid, percentile: float) -> float:
    """Between two masks ``(1, *S)``, mm."""
    if not second.any():
        return math.nan
    from monai.metrics import compute_hausdorff_distance  # takes a while to import

    spacing = [float(step) for step in grid.spacing]
    found = compute_hausdorff_distance(
        second[None].float(), first[None].float(), include_background=True, percentile=percentile, spacing=spacing
    )
    return float(found)


def _checked(fixed: torch.Tensor, moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if fixed.shape != moved.shape or fixed.ndim < 2 or fixed.shape[0] != 1:
        raise ValueError(f"label maps must be (1, *S) on one grid, got {tuple(fixed.shape)} and {tuple(moved.shape)}")
    return _numbers(fixed), _numbers(moved)


def _numbers(labels: torch.Tensor) -> torch.Tensor:
    labels = plain(labels)
    if labels.dtype == torch.bool:
        return labels.to(torch.uint8)
    return labels.double() if labels.is_floating_point() else labels  # float32 beside int64 would change large labels


def _wanted(found: Iterable[int], labels: Iterable[int] | None) -> set[int]:
    return {label for label in found if label} if labels is None else {int(label) for label in labels}
