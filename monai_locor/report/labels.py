# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Label maps of both images of a registration: read, matched and compared."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..io import ImageSource
from ..io.arrays import images_of_channels
from ..io.images import read_labels
from ..io.masks import placed_like
from ..quality.labels import LabelOverlap, label_overlap
from ..registration.result import RegistrationResult

__all__ = ["LabelSources", "label_overlaps"]

LabelSources: TypeAlias = "ImageSource | Sequence[ImageSource]"


def label_overlaps(result: RegistrationResult, fixed: LabelSources = (), moving: LabelSources = ()) -> list[LabelOverlap]:
    """Resample label maps onto the fixed grid and compare the matching ones.

    Maps with the same file name match; the others match in their order if there are as many of both images.

    Args:
        result: registration result.
        fixed: label maps in the space of the fixed image, on any grid.
        moving: label maps in the space of the moving image.

    Raises:
        InputError: if a map cannot be read or its number of dimensions differs from that of the registration.
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
    return [label_overlap(*pair, result.fixed_grid, result.initial_mm, result.forward_mm) for pair in pairs]


def _read(sources: LabelSources, role: str, result: RegistrationResult) -> list[tuple[str, MetaTensor]]:
    """Names and maps, ``(1, *spatial)`` int64."""
    none = isinstance(sources, (list, tuple)) and not sources
    several = [] if none else images_of_channels(sources)  # tells a list of maps from a map given as a list of numbers
    found = []
    for number, source in enumerate([sources] if several is None else several, 1):
        grid = result.fixed_grid if role == "fixed" else result.moving_grid
        bare = not isinstance(source, MetaTensor) and tuple(getattr(source, "shape", ())) == grid.shape
        labels = read_labels(source[None] if bare else source, role)  # bare: an array without a channel axis
        file = source if isinstance(source, (str, PathLike)) else labels.meta.get("filename_or_obj")
        name = Path(str(file)).name if file else f"{role} labels {number}"
        if labels.ndim - 1 != grid.dims:
            raise InputError(f"{role} labels {name}: {labels.ndim - 1}-D, but the registration is {grid.dims}-D")
        found.append((name, placed_like(labels, grid, f"{role} labels {name}")))
    return found


def _take(maps: list[tuple[str, MetaTensor]], name: str) -> MetaTensor:
    """Remove the first map of this name and return it."""
    return maps.pop([other for other, _ in maps].index(name))[1]
