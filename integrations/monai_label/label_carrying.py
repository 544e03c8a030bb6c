# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Labels of a similar image carried to another one, without MONAI Label."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from monai_locor import InputError, register
from monai_locor.geometry import Grid, same_grid
from monai_locor.io.grids import read_grid
from monai_locor.io.images import read_labels, write_image
from monai_locor.quality import Verdict
from monai_locor.tensors import plain

__all__ = ["Carried", "Labeled", "carried_labels", "nearest"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labeled:
    """An image with a label map on its grid."""

    name: str
    image: str
    labels: str


@dataclass(frozen=True)
class Carried:
    """Labels on the grid of the new image, ``(1, *grid)`` int64, the verdict on the registration, and their grid."""

    labels: torch.Tensor
    grid: Grid
    verdict: Verdict

    @property
    def values(self) -> list[int]:
        """The labels that there are, without the background 0."""
        return [int(value) for value in torch.unique(self.labels) if value != 0]

    def write(self, path: Path) -> None:
        """Write the label map in a type that holds its values."""
        write_image(path, self.labels, self.grid, np.min_scalar_type(max(self.values, default=0)).name)


def nearest(image: str, candidates: Sequence[Labeled], device: str | None = None) -> Labeled:
    """The candidate that shares most information with an image after an affine registration.

    The measure is the normalized mutual information of the verdict, which the registration does not optimize; it compares
    candidates of one modality. Candidates that cannot be registered are left out.

    Args:
        image: file or DICOM folder.
        candidates: at least one; a single one is returned without a registration.
        device: see :func:`monai_locor.register`.

    Raises:
        InputError: if there is no candidate, or none can be registered.
    """
    if not candidates:
        raise InputError(f"{image}: there is no other labeled image to carry labels from; label one, and submit it")
    if len(candidates) == 1:
        return candidates[0]
    found = []
    for candidate in candidates:
        try:
            result = register(image, candidate.image, preset="draft", transform="affine", device=device, progress=False)
        except InputError as error:
            logger.warning("%s is left out: %s", candidate.name, error)
            continue
        assert result.verdict is not None
        shared = result.verdict.measures["nmi_after"]
        found.append((-1.0 if shared is None else shared, candidate))
        logger.info("%s: normalized mutual information %s", candidate.name, shared)
    if not found:
        raise InputError(f"{image}: none of the {len(candidates)} labeled images can be registered to it; see the log")
    return max(found, key=lambda each: each[0])[1]


def carried_labels(
    image: str, source: Labeled, preset: str = "default", transform: str = "deformable", device: str | None = None
) -> Carried:
    """Register a labeled image to an image, and resample its labels, each as a smooth region.

    Args:
        image: file or DICOM folder of the new image.
        source: the labeled image.
        preset, transform, device: see :func:`monai_locor.register`.

    Raises:
        InputError: if a file cannot be read or registered, or the label map is not on the grid of its image.
    """
    labels = read_labels(source.labels, "moving")
    grid = Grid.of(labels)
    if not same_grid(grid, read_grid(source.image, "moving image")):
        raise InputError(f"{source.labels}: is not on the grid of its image {source.image}; save it on that grid")
    result = register(image, source.image, preset=preset, transform=transform, device=device, progress=False)
    assert result.verdict is not None
    moved = plain(result.transform.warp(plain(labels), grid, result.fixed_grid, "smooth"))
    return Carried(moved, result.fixed_grid, result.verdict)
