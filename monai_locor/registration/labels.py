# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Label maps of both images, which drive a registration beside the images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import Grid, apply_affine, inside
from ..geometry.mapping import displacement_of_affine
from ..io import ImageSource
from ..io.images import read_labels
from ..io.masks import placed_like
from ..quality.labels import label_overlap
from ..roles import ROLES
from ..tensors import plain
from .label_surfaces import LabelSurfaces, surface_faces

__all__ = ["LabelSource", "Labels"]

logger = logging.getLogger(__name__)

#: what ``register(labels=...)`` accepts: two label maps and, optionally, a mapping of weights
LabelSource: TypeAlias = Sequence[Any]


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels that both images have.

    Attributes:
        values: L sorted labels.
        weights: relative weight of each label, ``(L,)`` float64.
        surfaces: their surfaces in the fixed and in the moving image.
        maps: label maps of the fixed and the moving image, ``(1, *any)`` int64, on their own grids; None if only the surfaces
            are known.
        shares: factor of the weight of each point of the surfaces of the fixed and of the moving image, ``(L, N)`` float64
            each; None for 1.
    """

    values: tuple[int, ...]
    weights: torch.Tensor
    surfaces: tuple[LabelSurfaces, LabelSurfaces]
    maps: tuple[MetaTensor, MetaTensor] | None
    shares: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def of(cls, given: LabelSource, fixed: Grid, moving: Grid) -> Labels:
        """Read label maps and find the surfaces of the labels that both have.

        Args:
            given: ``(fixed, moving)`` or ``(fixed, moving, weights)``. A label map is a file or an image in memory, see
                :func:`monai_locor.io.images.read_labels`, on any grid. Weights are a mapping from labels to numbers; labels
                that it does not have are not used. By default all labels except 0 have the same weight.
            fixed, moving: grids of the images.

        Raises:
            InputError: if a label map cannot be read or does not lie on its image, or they have no label in common.
        """
        check_labels(given)
        maps = tuple(_read(source, role, grid) for source, role, grid in zip(given[:2], ROLES, (fixed, moving), strict=True))
        weights = _weights(given[2] if len(given) > 2 else None)
        found = [_labels_with_surface(each) for each in maps]
        common = sorted(set(found[0]) & set(found[1]))
        values = [label for label in common if weights is None or weights.get(label, 0) > 0]
        if not values:
            texts = [", ".join(map(str, each[:8])) + ", ..." * (len(each) > 8) or "none" for each in found]
            asked = "" if weights is None else f", weights for {', '.join(map(str, weights))}"
            raise InputError(f"labels: no label in common: fixed {texts[0]}; moving {texts[1]}{asked}; give the same in both.")
        apart = [label for label in set(found[0]) ^ set(found[1]) if weights is None or label in weights]
        if apart:
            logger.warning("labels in one image only are not used: %s", ", ".join(map(str, sorted(apart))))
        surfaces = tuple(LabelSurfaces.of(plain(each), Grid.of(each), values) for each in maps)
        numbers = [1.0 if weights is None else weights[label] for label in values]
        return cls(tuple(values), torch.tensor(numbers, dtype=torch.float64), surfaces, maps)  # type: ignore[arg-type]

    def agreement(self, initial: np.ndarray, forward_mm: torch.Tensor, grid: Grid) -> dict[str, Any]:
        """Return Dice of the labels before and after a registration, for all and for each label.

        Args:
            initial: initial affine, ``(D + 1, D + 1)``, fixed to moving world points.
            forward_mm: forward displacement, ``(D, *grid)``, RAS mm.
            grid: grid of the fixed image, on which they are compared.
        """
        assert self.maps is not None
        found = label_overlap("labels", *self.maps, grid, displacement_of_affine(initial, grid), forward_mm, self.values)
        out: dict[str, Any] = {"labels": list(self.values)}
        for when, dice, mean in zip(("before", "after"), (found.before, found.after), found.means, strict=True):
            each = [round(dice[label], 4) if label in dice else None for label in self.values]
            out[when] = {"mean": None if np.isnan(mean) else round(mean, 4), "each": each}
        return out


def check_labels(given: LabelSource) -> None:
    """Check that labels are given for both images.

    Raises:
        InputError: if not.
    """
    if not isinstance(given, (list, tuple)) or len(given) not in (2, 3) or any(each is None for each in given[:2]):
        raise InputError("labels: give (fixed labels, moving labels) or (fixed labels, moving labels, weights).")


def _read(source: ImageSource, role: str, grid: Grid) -> MetaTensor:
    """Read a label map and check that it lies on its image."""
    labels = read_labels(source, role)
    name = f"{role} labels {labels.meta.get('filename_or_obj', '')}".rstrip()
    labels = placed_like(labels, grid, name)
    own = Grid.of(labels)
    if own.dims != grid.dims:
        raise InputError(f"{name}: have shape {own.shape}, the {role} image {grid.shape}; both must be 2-D or both 3-D")
    where = torch.from_numpy(apply_affine(own.affine, (plain(labels)[0] != 0).nonzero().double().numpy()))
    voxels = torch.from_numpy(apply_affine(np.linalg.inv(grid.affine), where.numpy())).T
    if not bool(inside(voxels, grid.shape, margin=-0.5).any()):
        raise InputError(f"{name}: no label lies in the {role} image; check that they share world coordinates")
    return labels


def _weights(given: Any) -> dict[int, float] | None:
    if given is None:
        return None
    try:
        weights = {int(label): float(weight) for label, weight in dict(given).items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"label weights: {given!r} is not a mapping from labels to numbers ({error}).") from error
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights.values()) or not any(weights.values()):
        raise InputError(f"label weights: {given!r}; give finite numbers, 0 or more, not all 0.")
    return weights


def _labels_with_surface(labels: MetaTensor) -> list[int]:
    """Labels of a map, without 0, that have a face toward another label or the background."""
    values, numbers = plain(labels).unique(return_inverse=True)
    numbers = torch.where(plain(labels) == 0, 0, numbers + 1).int()
    found = surface_faces(numbers, Grid.of(labels))[2].unique().tolist()
    return [int(values[number - 1]) for number in found]
