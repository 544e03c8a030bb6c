# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Overlap of two label maps, per label."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from ..geometry import Grid
from ..tensors import plain

__all__ = ["common_labels", "dice_per_label", "hausdorff_per_label", "mean_over_labels"]

MIN_LABEL_VOXELS = 50


def dice_per_label(fixed: torch.Tensor, moved: torch.Tensor, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Dice coefficient of each label, ``2 |A and B| / (|A| + |B|)`` (Dice 1945, doi 10.2307/1932409).

    Args:
        fixed: ``(1, *S)``, integer values of any dtype.
        moved: ``(1, *S)``, the other label map on the same grid.
        labels: labels to evaluate; by default all of the fixed map except 0, the background.

    Returns:
        Sorted mapping from label to Dice in [0, 1]. Labels missing in the fixed map are left out; a label missing only in
        the moved map scores 0.

    Raises:
        ValueError: if the shapes differ.
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
    """Percentile of the Hausdorff distance of each label, the maximum of both directions, computed by MONAI.

    The percentile is taken over surface voxels. The Learn2Reg challenge weights them by surface area instead (DeepMind's
    ``surface-distance``), which gives slightly different numbers.

    Args:
        fixed: ``(1, *S)``, integer values of any dtype.
        moved: ``(1, *S)``, the other label map on the same grid.
        grid: grid of both label maps; provides the voxel size.
        percentile: percentile of the distances; 100 gives the Hausdorff distance.
        labels: labels to evaluate; by default all of the fixed map except 0, the background.

    Returns:
        Sorted mapping from label to mm. Labels missing in the fixed map are left out; a label missing only in the moved map
        gives NaN.

    Raises:
        ValueError: if the shapes differ from each other or from the grid.
        ImportError: if SciPy is missing, which MONAI needs to compute distances.
    """
    fixed, moved = _checked(fixed, moved)
    if tuple(fixed.shape[1:]) != grid.shape:
        raise ValueError(f"label maps of shape {tuple(fixed.shape)} do not match the grid of shape {grid.shape}")
    inside = {int(label) for label in fixed.unique().tolist()}
    wanted = sorted(_wanted(inside, labels) & inside)
    return {label: _distance(fixed == label, moved == label, grid, percentile) for label in wanted}


def common_labels(fixed: torch.Tensor, moving: torch.Tensor, least: int = MIN_LABEL_VOXELS) -> list[int]:
    """Labels present in both label maps.

    Args:
        fixed: ``(1, *S)``, integer values of any dtype.
        moving: ``(1, *T)``, on any grid.
        least: minimum number of voxels of a label in the fixed map; the overlap of tiny labels is not informative.

    Returns:
        Sorted labels without 0, the background.
    """
    present = {int(label) for label in _numbers(moving).unique().tolist()}
    labels, counts = _numbers(fixed).unique(return_counts=True)
    return [int(n) for n, size in zip(labels.tolist(), counts.tolist()) if n and size >= least and int(n) in present]


def mean_over_labels(values: dict[int, float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    numbers = [value for value in values.values() if not math.isnan(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _distance(first: torch.Tensor, second: torch.Tensor, grid: Grid, percentile: float) -> float:
    """Distance between two masks ``(1, *S)``, mm."""
    if not second.any():
        return math.nan
    from monai.metrics import compute_hausdorff_distance  # slow to import

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
    return labels.double() if labels.is_floating_point() else labels  # float32 cannot hold all large int64 labels


def _wanted(found: Iterable[int], labels: Iterable[int] | None) -> set[int]:
    return {label for label in found if label} if labels is None else {int(label) for label in labels}
