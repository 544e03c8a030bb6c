# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Points of both images, mapped by the transform of a registration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..geometry import Grid, sample_planar
from ..networks.velocity import SplineVelocity
from .coordinates import lattice_directions, normalizing, transformed

__all__ = ["MappedPoints", "PointMapper", "factors", "robust"]


def factors(weights: torch.Tensor, weight: float) -> torch.Tensor:
    """Factors of :func:`robust` of each part of a term, ``(N,)``, in proportion to the weights of the parts.

    Args:
        weights: of the parts, ``(N,)``, not all 0.
        weight: of the term.

    >>> factors(torch.tensor([1.0, 3.0]), weight=0.5)
    tensor([0.2500, 0.7500])
    """
    return 2 * weight * weights / weights.sum()


def robust(squared: torch.Tensor) -> torch.Tensor:
    """Half of the pseudo-Huber loss of squared distances, ``sqrt(1 + d^2) - 1``.

    >>> robust(torch.tensor([0.0, 3.0]))
    tensor([0., 1.])
    """
    return (1 + squared).sqrt() - 1


class PointMapper:
    """Maps points of the fixed image to the moving image, and the reverse, in a stage.

    All constants are on the device, and a call does not synchronize with it.

    Args:
        fixed: fixed grid that the lattice was made for.
        velocity: velocity that defines the lattice; None for an affine map.
        device: device of the computation.
    """

    def __init__(self, fixed: Grid, velocity: SplineVelocity | None, device: torch.device | str = "cpu") -> None:
        self.device = device
        if velocity is not None:
            to_lattice = normalizing(velocity.shape) @ np.linalg.inv(velocity.lattice.affine)
            self.to_lattice = torch.from_numpy(to_lattice).to(device)
            self.directions = torch.from_numpy(lattice_directions(fixed, velocity)).to(device)

    def __call__(self, k: int, points: torch.Tensor, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the mapped points of direction ``k``, ``(D, N)`` float64, RAS mm.

        Args:
            k: 0 for fixed points mapped to the moving image, 1 for moving points mapped to the fixed image.
            points: ``(D, N)`` float64, RAS mm.
            matrix: ``(D + 1, D + 1)`` float64, from world points of the one image to those of the other.
            displacement: displacement on the lattice, ``(D, *lattice)`` in its voxels, last axis first; or None.
        """
        if k == 0:  # the affine is applied after the displacement
            return transformed(matrix, self.displaced(points, displacement))
        return self.displaced(transformed(matrix, points), displacement)

    def displaced(self, points: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Move points ``(D, N)`` of the fixed world by the displacement, which is constant beyond its lattice."""
        if displacement is None:
            return points
        where = transformed(self.to_lattice, points).to(displacement)
        moved = sample_planar(displacement[None], where[None], "border")[0]
        return points + self.directions @ moved.double()


class MappedPoints:
    """Points of both images that are mapped to the other one.

    Args:
        points: of the fixed and of the moving image, ``(N, D)`` and ``(M, D)`` float64, RAS mm.
        mapper: of the stage.

    Attributes:
        points: ``(D, N)`` and ``(D, M)``, on the device of the mapper.
    """

    def __init__(self, points: Sequence[torch.Tensor], mapper: PointMapper) -> None:
        self.points = [x.T.contiguous().to(mapper.device) for x in points]
        self.mapper = mapper

    def mapped(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the mapped points of direction ``k``, ``(D, N)``; arguments and result of :class:`PointMapper`."""
        return self.mapper(k, self.points[k], matrix, displacement)
