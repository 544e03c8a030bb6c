# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What an engine has found, as fields on the whole grids of both images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..geometry import Grid, warp
from ..networks.composition import StagedVelocity
from ..tensors import plain
from .coordinates import ForwardCoordinates, InverseCoordinates
from .inversion import refined_inverse
from .start.reach import box_within

if TYPE_CHECKING:
    from .engine import RegistrationEngine

__all__ = ["StationaryVelocity", "forward_mm", "inverse_mm", "stationary_velocity"]


@dataclass(frozen=True)
class StationaryVelocity:
    """The velocity v of a registration: the fixed point x goes to ``A exp(v)(x)``, the moving point y to ``exp(-v)(A^-1 y)``.

    Attributes:
        values: ``(D, *lattice)`` float32, RAS mm, on the host.
        lattice: where it was integrated.
    """

    values: torch.Tensor
    lattice: Grid

    def on(self, grid: Grid) -> torch.Tensor:
        """On another grid, ``(D, *grid)`` float32, RAS mm: linear between lattice points, beyond them as at the border."""
        return warp(self.values, self.lattice, None, grid, padding_mode="border")


@torch.no_grad()
def stationary_velocity(engine: RegistrationEngine) -> StationaryVelocity | None:
    """What an engine has found; None where its map is not the exponential of one velocity, or is to have no deformation."""
    if engine.config.transform != "deformable" or isinstance(engine.velocity, StagedVelocity):
        return None
    values = torch.tensordot(_lattice_axes(engine), engine.velocity.velocity().double(), dims=1)
    return StationaryVelocity(values.float().cpu(), engine.velocity.lattice)


def _found(engine: RegistrationEngine, direction: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The affine of a direction, and the displacement on the lattice, if there is one."""
    field = engine.velocity([direction])[0] if engine.deformable else None
    return engine.affine(inverse=bool(direction)), field


def forward_mm(engine: RegistrationEngine) -> torch.Tensor:
    """See :meth:`.engine.RegistrationEngine.forward_mm`. Beyond the lattice a displacement stays as it is at its border."""
    fixed, moving = (image.grid for image in engine.whole)
    matrix, field = _found(engine, 0)
    if field is None or engine.fixed is engine.whole[0]:
        velocity = None if field is None else engine.velocity
        return ForwardCoordinates(fixed, fixed, moving, velocity, engine.device).displacement_mm(matrix, field)
    out = ForwardCoordinates(fixed, fixed, moving, None, engine.device).displacement_mm(matrix, None)
    linear = (matrix[:-1, :-1] @ _lattice_axes(engine)).to(out)
    out += torch.tensordot(linear, warp(field, engine.velocity.lattice, None, fixed, padding_mode="border"), dims=1)
    return out


def inverse_mm(engine: RegistrationEngine, forward: torch.Tensor) -> torch.Tensor:
    """See :meth:`.engine.RegistrationEngine.inverse_mm`."""
    fixed, moving = (image.grid for image in engine.whole)
    velocity = engine.velocity if engine.deformable else None
    inverse = InverseCoordinates(moving, engine.fixed.grid, velocity, engine.device).displacement_mm(*_found(engine, 1))
    if not engine.deformable:
        return inverse
    # out of reach there is nothing to go by
    inside = (slice(None), *box_within(engine.moving.grid, moving))
    given = inverse[inside], engine.moving.grid, plain(forward).to(inverse), fixed
    refined = refined_inverse(*given, engine.matrix())
    if engine.moving is engine.whole[1]:
        return refined
    inverse[inside] = refined
    return inverse


def _lattice_axes(engine: RegistrationEngine) -> torch.Tensor:
    """``(D, D)`` float64: from voxels of the lattice to mm of the fixed world."""
    return torch.from_numpy(engine.velocity.lattice.affine[:-1, :-1].copy()).to(engine.device)
