# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The term of the loss that pulls landmarks together."""

from __future__ import annotations

import torch

from .landmarks import Landmarks
from .mapped_points import MappedPoints, PointMapper, factors, robust

__all__ = ["LandmarkTerm"]


class LandmarkTerm(MappedPoints):
    """Weighted robust mean distance of landmarks in one direction of a registration.

    Let d be the distance between a mapped point and its counterpart, in units of the sample distance of the stage. The term is
    ``weight * sum_i w_i * 2 (sqrt(1 + d_i^2) - 1)`` with weights ``w_i`` that sum to 1 (the pseudo-Huber loss): about ``d^2``
    below one sample, and ``2 d`` far beyond, so that one wrong pair has a limited pull. A displacement by one sample also
    changes the similarity measures by about 1. The balance of both therefore depends neither on the size of the images and
    voxels nor on the number of landmarks, and each of N landmarks acts like 1 / N of the image.
    ``shares`` of the landmarks multiply the weights in each direction.

    Args:
        landmarks: the points.
        weight: weight of the term.
        sample_distance: distance of the samples in the stage, mm.
        mapper: of the stage.
    """

    def __init__(self, landmarks: Landmarks, weight: float, sample_distance: float, mapper: PointMapper) -> None:
        super().__init__((landmarks.fixed, landmarks.moving), mapper)
        weights = factors(landmarks.weights, weight)
        self.weights = [(weights * share).to(mapper.device) for share in landmarks.shares or (1.0, 1.0)]
        self.unit = 1 / sample_distance**2

    def __call__(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the term for direction ``k``, a scalar in float64; arguments of :meth:`.mapped_points.MappedPoints.mapped`."""
        squared = (self.mapped(k, matrix, displacement) - self.points[1 - k]).square().sum(0) * self.unit
        return robust(squared) @ self.weights[k]
