# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The term of the loss that pulls landmarks together."""

from __future__ import annotations

import numpy as np
import torch

from ..geometry import Grid, sample_planar
from ..networks.velocity import SplineVelocity
from .coordinates import lattice_directions, normalizing, transformed
from .landmarks import Landmarks

__all__ = ["LandmarkTerm"]


class LandmarkTerm:
    """Weighted robust mean distance of landmarks in one direction of a registration.

    Let d be the distance between a mapped point and its counterpart, in units of the sample distance of the stage. The term is
    ``weight * sum_i w_i * 2 (sqrt(1 + d_i^2) - 1)`` with weights ``w_i`` that sum to 1 (the pseudo-Huber loss): about ``d^2``
    below one sample, and ``2 d`` far beyond, so that one wrong pair has a limited pull. A displacement by one sample also
    changes the similarity measures by about 1. The balance of both therefore depends neither on the size of the images and
    voxels nor on the number of landmarks, and each of N landmarks acts like 1 / N of the image.

    All constants are on the device, and a call does not synchronize with it.

    Args:
        landmarks: the points.
        weight: weight of the term.
        sample_distance: distance of the samples in the stage, mm.
        fixed: fixed grid that the lattice was made for.
        velocity: velocity that defines the lattice; None for an affine map.
        device: device of the computation.
    """

    def __init__(
        self,
        landmarks: Landmarks,
        weight: float,
        sample_distance: float,
        fixed: Grid,
        velocity: SplineVelocity | None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.points = [x.T.contiguous().to(device) for x in (landmarks.fixed, landmarks.moving)]
        self.weights = (2 * weight * landmarks.weights / landmarks.weights.sum()).to(device)
        self.unit = 1 / sample_distance**2
        if velocity is not None:
            to_lattice = normalizing(velocity.shape) @ np.linalg.inv(velocity.lattice.affine)
            self.to_lattice = torch.from_numpy(to_lattice).to(device)
            self.directions = torch.from_numpy(lattice_directions(fixed, velocity)).to(device)

    def __call__(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the term for direction ``k``, a scalar in float64.

        Args:
            k: 0 for fixed points mapped to the moving image, 1 for moving points mapped to the fixed image.
            matrix: ``(D + 1, D + 1)`` float64, from world points of the one image to those of the other.
            displacement: displacement on the lattice, ``(D, *lattice)`` in its voxels, last axis first; or None.
        """
        squared = (self.mapped(k, matrix, displacement) - self.points[1 - k]).square().sum(0) * self.unit
        return ((1 + squared).sqrt() - 1) @ self.weights

    def mapped(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the mapped points of direction ``k``, ``(D, N)`` float64, RAS mm; arguments as for :meth:`__call__`."""
        points = self.points[k]
        if k == 0:  # the affine is applied after the displacement
            return transformed(matrix, self._displaced(points, displacement))
        return self._displaced(transformed(matrix, points), displacement)

    def _displaced(self, points: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Move points ``(D, N)`` of the fixed world by the displacement, which is constant beyond its lattice."""
        if displacement is None:
            return points
        where = transformed(self.to_lattice, points).to(displacement)
        moved = sample_planar(displacement[None], where[None], "border")[0]
        return points + self.directions @ moved.double()
