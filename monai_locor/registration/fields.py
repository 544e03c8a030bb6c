# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What an engine has found, as fields on the whole grids of both images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from monai_locor.geometry import warp
from monai_locor.tensors import plain

from .coordinates import ForwardCoordinates, InverseCoordinates
from .inversion import refined_inverse
from .reach import box_within

if TYPE_CHECKING:
    from .engine import RegistrationEngine

__all__ = ["forward_mm", "inverse_mm"]


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
