# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What drives a registration beside the images: terms of the loss by landmarks, labels and surfaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

from ..geometry import Grid
from ..networks.velocity import SplineVelocity
from .config import RegistrationConfig
from .label_term import LabelTerm
from .landmark_term import LandmarkTerm
from .mapped_points import PointMapper
from .start.start import Start
from .surface_term import SurfaceTerm

__all__ = ["GUIDE_NAMES", "Guides", "guides_of"]

#: in the order of the parts of the loss, and their names in the history
GUIDE_NAMES = ("landmarks", "labels", "surfaces")
#: the value for a direction, its matrix and its displacement
Term: TypeAlias = Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Guides:
    """The terms of a stage.

    Args:
        terms: by name.
        device: device of the registration.

    Attributes:
        names: of the terms.
    """

    def __init__(self, terms: Mapping[str, Term], device: torch.device) -> None:
        self.names, self.terms = tuple(terms), list(terms.values())
        self.values = torch.zeros(len(terms), 2, dtype=torch.float32, device=device)

    def added(self, value: torch.Tensor, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of direction ``k`` with the terms, from that without them, and keep their values."""
        for number, term in enumerate(self.terms):
            found = term(k, matrix, displacement).to(value)
            self.values[number, k], value = found.detach(), value + found
        return value

    def means(self) -> list[torch.Tensor]:
        """The mean over both directions of each term."""
        return [values.mean() for values in self.values] if self.terms else []


def guides_of(
    start: Start, config: RegistrationConfig, distance: float, fixed: Grid, velocity: SplineVelocity | None
) -> Guides:
    """The terms of a stage.

    Args:
        start: with the landmarks, labels and surfaces.
        config: their weights.
        distance: distance of the samples, mm.
        fixed: grid of the fixed image.
        velocity: velocity of the deformation; None for an affine stage.
    """
    terms: dict[str, Term] = {}
    if not start.guided:
        return Guides(terms, start.device)
    mapper = PointMapper(fixed, velocity, start.device)
    if start.landmarks is not None and config.landmark_weight > 0:
        terms["landmarks"] = LandmarkTerm(start.landmarks, config.landmark_weight, distance, mapper)
    if start.labels is not None and config.label_weight > 0:
        terms["labels"] = LabelTerm(start.labels, config.label_weight, distance, mapper)
    if start.surfaces is not None and config.surface_weight > 0:
        terms["surfaces"] = SurfaceTerm(start.surfaces, config.surface_weight, distance, mapper)
    return Guides(terms, start.device)
