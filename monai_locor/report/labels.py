# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Label maps that a registration carries along, and how well they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import Grid, warp
from ..io.arrays import images_of_channels
from ..io.images import read_labels
from ..io.masks import placed_like
from ..metrics import dice_per_label, mean_over_labels
from ..tensors import plain

if TYPE_CHECKING:
    from ..io import ImageSource
    from ..registration.result import RegistrationResult

    Sources = ImageSource | Sequence[ImageSource]

__all__ = ["LabelPair", "label_pairs"]

SLACK = 0.01  # of the mean Dice: what the resampling of label maps alone may change


@dataclass(frozen=True)
class LabelPair:
    """Label maps of both images on the fixed grid, or one of them.

    Attributes:
        name: of the files, for people.
        fixed: ``(1, *fixed)`` int64, that of the fixed image.
        moved: ``(1, *fixed)``, that of the moving image through the transform.
        before: Dice of each label where the registration started; empty without both maps.
        after: through the transform.
    """

    name: str
    fixed: torch.Tensor | None
    moved: torch.Tensor | None
    before: dict[int, float]
    after: dict[int, float]

    @property
    def fell(self) -> bool:
        """Whether the mean Dice is lower after the registration."""
        before, after = self.means
        return after < before - SLACK

    @property
    def means(self) -> tuple[float, float]:
        """Mean Dice before and after; NaN without both maps."""
        return mean_over_labels(self.before), mean_over_labels(self.after)


def label_pairs(result: RegistrationResult, fixed: Sources = (), moving: Sources = ()) -> list[LabelPair]:
    """Bring label maps onto the fixed grid and compare those that belong together.

    Maps belong together that have the same file name; of the others the first of the fixed image belongs to the first of the
    moving image, and so on, if there are as many of both.

    Args:
        fixed: label maps in the space of the fixed image, on any grid.
        moving: the same of the moving image.

    Raises:
        InputError: when one cannot be read or has other dimensions than the registration.
    """
    first, second = (_read(sources, role, result) for sources, role in ((fixed, "fixed"), (moving, "moving")))
    pairs: list[tuple[str, MetaTensor | None, MetaTensor | None]] = []
    for name in [name for name, _ in first]:
        if name in dict(second):
            pairs.append((name, _take(first, name), _take(second, name)))
    if len(first) == len(second):
        pairs += [(f"{b[0]} and {a[0]}", a[1], b[1]) for a, b in zip(first, second, strict=True)]
    else:
        pairs += [(name, labels, None) for name, labels in first] + [(name, None, labels) for name, labels in second]
    return [_pair(result, *pair) for pair in pairs]


def _read(sources: Sources, role: str, result: RegistrationResult) -> list[tuple[str, MetaTensor]]:
    """Names and maps, ``(1, *spatial)`` int64."""
    none = isinstance(sources, (list, tuple)) and not sources
    several = [] if none else images_of_channels(sources)  # which knows a list of maps from a map as a list of numbers
    found = []
    for number, source in enumerate([sources] if several is None else several, 1):
        grid = result.fixed_grid if role == "fixed" else result.moving_grid
        bare = not isinstance(source, MetaTensor) and tuple(getattr(source, "shape", ())) == grid.shape
        labels = read_labels(source[None] if bare else source, role)  # an array without an axis of channels
        file = source if isinstance(source, (str, PathLike)) else labels.meta.get("filename_or_obj")
        name = Path(str(file)).name if file else f"{role} labels {number}"
        if labels.ndim - 1 != grid.dims:
            raise InputError(f"{role} labels {name}: are {labels.ndim - 1}-D, the registration {grid.dims}-D")
        found.append((name, placed_like(labels, grid, f"{role} labels {name}")))
    return found


def _take(maps: list[tuple[str, MetaTensor]], name: str) -> MetaTensor:
    """The first map of this name, which is taken out."""
    return maps.pop([other for other, _ in maps].index(name))[1]


def _pair(result: RegistrationResult, name: str, fixed: MetaTensor | None, moving: MetaTensor | None) -> LabelPair:
    grid = result.fixed_grid
    still, before, moved = (
        None if labels is None else warp(plain(labels), Grid.of(labels), field, grid, "nearest")
        for labels, field in ((fixed, None), (moving, result.initial_mm), (moving, result.forward_mm))
    )
    if still is None or before is None or moved is None:
        return LabelPair(name, still, moved, {}, {})
    return LabelPair(name, still, moved, dice_per_label(still, before), dice_per_label(still, moved))
