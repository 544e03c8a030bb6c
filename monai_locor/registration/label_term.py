# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The term of the loss that pulls the surfaces of labels together."""

from __future__ import annotations

import torch

from .labels import Labels
from .mapped_points import MappedPoints, PointMapper, factors, robust

__all__ = ["LabelTerm"]


class LabelTerm(MappedPoints):
    """Robust mean distance of the surfaces of labels in one direction of a registration.

    Points on the surface of each label of one image are mapped to the other image. Let d be the distance of such a point from
    the surface of the same label there, in units of the sample distance of the stage. The term is
    ``weight * sum_l w_l mean_i 2 (sqrt(1 + d_li^2) - 1)`` over the labels l, whose weights ``w_l`` sum to 1: that of
    :class:`.landmark_term.LandmarkTerm`, and in the same balance with the images. The labels need not overlap.
    ``shares`` of the labels multiply the value of each point.

    Args:
        labels: the labels.
        weight: weight of the term.
        sample_distance: distance of the samples in the stage, mm.
        mapper: of the stage.
    """

    def __init__(self, labels: Labels, weight: float, sample_distance: float, mapper: PointMapper) -> None:
        super().__init__([each.points.flatten(0, 1) for each in labels.surfaces], mapper)
        self.count = len(labels.values)
        self.distances = [[part.to(mapper.device) for part in each.distances] for each in labels.surfaces]
        weights = factors(labels.weights, weight / labels.surfaces[0].points.shape[1])[:, None].to(mapper.device)
        shares = [weights * share.to(mapper.device) for share in labels.shares] if labels.shares else [weights, weights]
        self.weights = [[own[part.labels] for part in parts] for own, parts in zip(shares, self.distances[::-1], strict=True)]
        self.unit = 1 / sample_distance

    def __call__(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the term for direction ``k``, a scalar in float64; arguments of :meth:`.mapped_points.MappedPoints.mapped`."""
        points = self.mapped(k, matrix, displacement).unflatten(1, (self.count, -1))
        total = torch.zeros((), dtype=torch.float64, device=points.device)
        for distance, weights in zip(self.distances[1 - k], self.weights[k], strict=True):
            squared = (distance(points) * self.unit).square()
            total = total + (robust(squared) * weights).sum()
        return total
