# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Displacement and velocity fields of an optimization on the complete grids of both images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..geometry import Grid, warp
from ..geometry.inversion import refined_inverse
from ..networks.affine import AffineMap
from ..networks.composition import StagedVelocity
from ..networks.velocity import SplineVelocity
from ..tensors import plain
from .coordinates import ForwardCoordinates, InverseCoordinates
from .start.reach import box_within

__all__ = ["BidirectionalMap", "StationaryVelocity", "forward_mm", "inverse_mm", "stationary_velocity"]


@dataclass(frozen=True, eq=False)
class BidirectionalMap:
    """An affine and a deformation between two images.

    Attributes:
        affine: the affine part.
        velocity: the deformation, on the lattice of the fixed image part; None if there is none.
        whole: grids of the fixed and the moving image.
        part: grids of the image parts that were registered; identical objects if an image was not cropped.
        device: device of the computation.
    """

    affine: AffineMap
    velocity: SplineVelocity | None
    whole: tuple[Grid, Grid]
    part: tuple[Grid, Grid]
    device: torch.device

    def direction(self, k: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the matrix of a direction (0 forward, 1 inverse) and its displacement as in ``SplineVelocity.reversed``."""
        return self.affine(inverse=bool(k)), None if self.velocity is None else self.velocity.reversed([k])[0]


@dataclass(frozen=True)
class StationaryVelocity:
    """The velocity v of a registration: it maps fixed points x to ``A exp(v)(x)``, moving points y to ``exp(-v)(A^-1 y)``.

    Attributes:
        values: velocity, ``(D, *lattice)`` float32, RAS mm, on the host.
        lattice: grid on which it was integrated.
    """

    values: torch.Tensor
    lattice: Grid

    def on(self, grid: Grid) -> torch.Tensor:
        """Resample to another grid, ``(D, *grid)`` float32, RAS mm: linear in the lattice, constant beyond its border."""
        return warp(self.values, self.lattice, None, grid, padding_mode="border")


@torch.no_grad()
def stationary_velocity(velocity: SplineVelocity) -> StationaryVelocity | None:
    """Return the velocity in mm; None if the deformation is not the exponential of a single velocity."""
    if isinstance(velocity, StagedVelocity):
        return None
    values = torch.tensordot(_lattice_axes(velocity), velocity.velocity().double(), dims=1)
    return StationaryVelocity(values.float().cpu(), velocity.lattice)


def forward_mm(found: BidirectionalMap) -> torch.Tensor:
    """Return the forward displacement including the affine, ``(D, *fixed)``, RAS mm; constant beyond the lattice."""
    fixed, moving = found.whole
    matrix, field = found.direction(0)
    if field is None or found.velocity is None or found.part[0] is fixed:
        return ForwardCoordinates(fixed, fixed, moving, found.velocity, found.device).displacement_mm(matrix, field)
    out = ForwardCoordinates(fixed, fixed, moving, None, found.device).displacement_mm(matrix, None)
    linear = (matrix[:-1, :-1] @ _lattice_axes(found.velocity).flip(1)).to(out)  # the last axis comes first
    out += torch.tensordot(linear, warp(field, found.velocity.lattice, None, fixed, padding_mode="border"), dims=1)
    return out


def inverse_mm(found: BidirectionalMap, forward: torch.Tensor) -> torch.Tensor:
    """Return the inverse displacement including the affine, ``(D, *moving)``, RAS mm.

    Args:
        forward: result of :func:`forward_mm`, used to refine the inverse.
    """
    fixed, moving = found.whole
    coordinates = InverseCoordinates(moving, found.part[0], found.velocity, found.device)
    inverse = coordinates.displacement_mm(*found.direction(1))
    if found.velocity is None:
        return inverse
    part = found.part[1]
    inside = (slice(None), *box_within(part, moving))  # there is no forward field to invert outside the part
    matrix = found.affine().cpu().numpy()
    refined = refined_inverse(inverse[inside], part, plain(forward).to(inverse), fixed, matrix)
    if part is moving:
        return refined
    inverse[inside] = refined
    return inverse


def _lattice_axes(velocity: SplineVelocity) -> torch.Tensor:
    """Return the matrix from voxels of the lattice to mm of the fixed world, ``(D, D)`` float64."""
    return torch.from_numpy(velocity.lattice.affine[:-1, :-1].copy()).to(velocity.coefficients.device)
