# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The initial state of a registration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

from ..labels import Labels
from ..landmarks import Landmarks
from ..surfaces import Surfaces
from .losses import InitialLosses
from .prepare import PreparedImage

__all__ = ["Images", "Start"]

#: fixed and moving image
Images: TypeAlias = tuple[PreparedImage, PreparedImage]


@dataclass(frozen=True, eq=False)
class Start:
    """The images and the initial state of a registration.

    Attributes:
        images: fixed and moving image, see :func:`monai_locor.registration.start.prepare.prepare`.
        affine: initial affine, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        velocity: initial stationary velocity, ``(D, *fixed)`` in the prepared axis order, RAS mm, or None. The optimized
            velocity is added to it.
        displacement: initial displacement without ``affine``, likewise, or None.
        losses: the initial state of the similarity measures.
        search: whether to run the multi-start search, see :func:`.search.better_start`.
        predict: called with the affine after the affine stages; returns an initial ``velocity``.
        unmasked: returns both images without masks, see :mod:`monai_locor.registration.correspondence`.
        landmarks: corresponding points of both images, or None.
        labels: labels of both images, or None.
        surfaces: pairs of surfaces of both images, or None.
        thrifty: whether memory is short: smaller slabs, one direction after the other. The result changes by rounding only.
    """

    images: Images
    affine: np.ndarray
    velocity: torch.Tensor | None = None
    displacement: torch.Tensor | None = None
    losses: InitialLosses = field(default_factory=InitialLosses)
    search: bool = False
    predict: Callable[[np.ndarray], torch.Tensor] | None = None
    unmasked: Callable[[], Images] | None = None
    landmarks: Landmarks | None = None
    labels: Labels | None = None
    surfaces: Surfaces | None = None
    thrifty: bool = False

    @property
    def device(self) -> torch.device:
        """The device of the fixed image, where the registration runs."""
        return self.images[0].device

    @property
    def masked(self) -> bool:
        """Whether voxels of either image are excluded."""
        return any(image.weight is not None for image in self.images)

    @property
    def guided(self) -> bool:
        """Whether landmarks, labels or surfaces drive the registration beside the images."""
        return any(each is not None for each in (self.landmarks, self.labels, self.surfaces))

    def to(self, device: torch.device | str) -> Start:
        """Return a copy with both images on a device."""
        fixed, moving = self.images
        return dataclasses.replace(self, images=(fixed.to(device), moving.to(device)))
