# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Overlap of label maps before and after a registration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.data.meta_tensor import MetaTensor

from ..geometry import Grid, warp
from ..metrics import dice_per_label, mean_over_labels
from ..tensors import plain

__all__ = ["LabelOverlap", "label_overlap"]

DICE_TOLERANCE = 0.01  # change of the mean Dice that the resampling of label maps alone may cause


@dataclass(frozen=True)
class LabelOverlap:
    """Label maps of both images on the fixed grid, or one of them, and their Dice.

    Attributes:
        name: file names, for display.
        fixed: label map of the fixed image, ``(1, *fixed)`` int64.
        warped: label map of the moving image, warped, ``(1, *fixed)``.
        before: Dice of each label at the start of the registration; empty unless both maps are given.
        after: Dice of each label at its end.
    """

    name: str
    fixed: torch.Tensor | None
    warped: torch.Tensor | None
    before: dict[int, float]
    after: dict[int, float]

    @property
    def decreased(self) -> bool:
        """Whether the registration lowered the mean Dice."""
        before, after = self.means
        return after < before - DICE_TOLERANCE

    @property
    def means(self) -> tuple[float, float]:
        """Mean Dice before and after; NaN unless both maps are given."""
        return mean_over_labels(self.before), mean_over_labels(self.after)


def label_overlap(
    name: str,
    fixed: MetaTensor | None,
    moving: MetaTensor | None,
    grid: Grid,
    initial_mm: torch.Tensor,
    forward_mm: torch.Tensor,
    labels: Sequence[int] | None = None,
) -> LabelOverlap:
    """Resample label maps onto the fixed grid and compare them.

    Args:
        name: for display.
        fixed, moving: label maps ``(1, *spatial)``, each on a grid of its own.
        grid: of the fixed image.
        initial_mm, forward_mm: displacement before and after the registration, ``(D, *grid)``, RAS mm.
        labels: to compare, by default all of the fixed map except 0.
    """
    reference, before, after = (
        None if part is None else warp(plain(part), Grid.of(part), field, grid, "nearest")
        for part, field in ((fixed, None), (moving, initial_mm), (moving, forward_mm))
    )
    if reference is None or before is None or after is None:
        return LabelOverlap(name, reference, after, {}, {})
    dice = (dice_per_label(reference, warped, labels) for warped in (before, after))
    return LabelOverlap(name, reference, after, *dice)
