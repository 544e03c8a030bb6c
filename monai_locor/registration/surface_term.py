# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The term of the loss that pulls the surfaces of meshes together."""

from __future__ import annotations

import torch

from .mapped_points import MappedPoints, PointMapper, factors, robust
from .surfaces import Surfaces

__all__ = ["SurfaceTerm"]


class SurfaceTerm(MappedPoints):
    """Robust mean distance of pairs of surfaces in one direction of a registration.

    The term is that of :class:`.label_term.LabelTerm`, with points on the surface of one image, mapped to the other, and their
    distances from the surface there, without a sign: surfaces may be open.

    Args:
        surfaces: the pairs.
        weight: weight of the term.
        sample_distance: distance of the samples in the stage, mm.
        mapper: of the stage.
    """

    def __init__(self, surfaces: Surfaces, weight: float, sample_distance: float, mapper: PointMapper) -> None:
        super().__init__([torch.cat([each.points for each in side]) for side in surfaces.maps], mapper)
        self.maps = [[each.to(mapper.device) for each in side] for side in surfaces.maps]
        self.weights = factors(surfaces.weights, weight).to(mapper.device)
        self.unit = 1 / sample_distance**2

    def __call__(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the term for direction ``k``, a scalar in float64; arguments of :meth:`.mapped_points.MappedPoints.mapped`."""
        parts = self.mapped(k, matrix, displacement).chunk(len(self.weights), 1)
        squared = [own.squared_distance(part) for own, part in zip(self.maps[1 - k], parts, strict=True)]
        return robust(torch.stack(squared) * self.unit).mean(1) @ self.weights
