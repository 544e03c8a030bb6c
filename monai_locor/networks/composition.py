# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The paper's deformation: every stage has its own velocity, composed into the map of the earlier stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..geometry import separable
from .velocity import SplineVelocity, spline_matrix

__all__ = ["COMPOSITIONS", "StagedVelocity"]


@dataclass(frozen=True)
class _Finished:
    """The velocity of a finished stage.

    Attributes:
        coefficients: of its splines, ``(D, *knots)``, in units of ``unit``.
        unit: smallest distance of its control points, mm.
        spacing: distance of its control points along each axis, ``(D,)``, mm.
        margin: extent of its lattice beyond the outermost voxel centers, mm.
        length: of its lattice along each axis, mm.
    """

    coefficients: torch.Tensor
    unit: float
    spacing: np.ndarray
    margin: float
    length: np.ndarray

    def on(self, lattice: SplineVelocity) -> torch.Tensor:
        """This velocity on another lattice over the same fixed grid, ``(D, *lattice)`` in its voxels."""
        matrices = []
        for axis, size in enumerate(lattice.shape):
            positions = np.arange(size) * lattice.step - lattice.margin + self.margin
            inside = positions.clip(0, self.length[axis])  # beyond its border a velocity continues with its border value
            matrix = spline_matrix(inside, self.spacing[axis], self.coefficients.shape[axis + 1])
            matrices.append(torch.from_numpy(matrix).to(self.coefficients))
        return separable(matrices, self.coefficients) * (self.unit / lattice.step)


class StagedVelocity(SplineVelocity):
    """A new velocity for every stage, inserted in the middle of the composition of all earlier ones.

    With ``u_k = exp(v_k)`` of stage k, the map after K stages is ``u_1 o ... o u_K o u_K o ... o u_1``, and its inverse is
    the same product of ``exp(-v_k)`` (Honkamaa & Marttinen, "Locor", arXiv 2503.05335). Only ``v_K``, the splines of this
    module, is optimized; the others are fixed. Because ``v_K`` enters twice, a step of its coefficients
    moves the map twice as far as a step of :class:`SplineVelocity`.

    A base (:meth:`set_base`) acts as a stage before the first one: half of it is applied on either side.

    Args:
        args, kwargs: see :class:`SplineVelocity`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._finished: list[_Finished] = []
        self._around: tuple[torch.Tensor, torch.Tensor] | None = None

    def velocity(self) -> torch.Tensor:
        """``(D, *lattice)`` in lattice voxels, of this stage alone."""
        return self._splines()

    @torch.no_grad()
    def largest(self) -> float:
        """Largest component of the velocities of all stages, lattice voxels. Waits for the device."""
        return max([super().largest(), *(float(v.abs().max()) for v in self._fixed_velocities())])

    def choose_squarings(self, growth: float = 0.0) -> None:
        """See :meth:`SplineVelocity.choose_squarings`."""
        super().choose_squarings(growth)
        self._around = None

    def _fixed_velocities(self) -> list[torch.Tensor]:
        """The velocities of the earlier stages and of half the base, ``(D, *lattice)`` each, the first one first."""
        fixed = [stage.on(self) for stage in self._finished]
        return fixed if self.base is None else [self.base / 2, *fixed]

    def set_base(self, velocity_mm: torch.Tensor) -> None:
        """See :meth:`SplineVelocity.set_base`."""
        super().set_base(velocity_mm)
        self._around = None

    def reversed(self, directions: Sequence[int] = (0, 1)) -> torch.Tensor:
        """Displacements of the whole map and of its inverse, see :meth:`SplineVelocity.reversed`."""
        update = super().reversed(directions)
        if self.base is None and not self._finished:
            return self._chain([update, update])
        if self._around is None:
            self._around = self._on_either_side()
        before, after = (torch.stack([side[k] for k in directions]) for side in self._around)
        return self._chain([before, update, update, after])

    @torch.no_grad()
    def take(self, other: SplineVelocity) -> None:
        """Continue from ``other`` (same fixed grid): its map is kept, and this velocity is composed into it.

        Raises:
            TypeError: if ``other`` is a single velocity for all stages.
        """
        if not isinstance(other, StagedVelocity):
            raise TypeError(f"expected a StagedVelocity, got {type(other).__name__}.")
        last = _Finished(other.coefficients.detach().clone(), other.unit, other.spacing, other.margin, other.length)
        self._finished = [*other._finished, last]
        self._around = None

    @torch.no_grad()
    def _on_either_side(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Displacements before and after this stage, of the map and of its inverse, each as in :meth:`reversed`."""
        updates = [self._exponentials(v, (0, 1)) for v in self._fixed_velocities()]
        return self._chain(updates), self._chain(updates[::-1])

    def _chain(self, displacements: Sequence[torch.Tensor]) -> torch.Tensor:
        """Displacement of a composition of maps, the first one applied first; all as in :meth:`reversed`."""
        total = displacements[0]
        for displacement in displacements[1:]:
            total = self.exponential.follow(displacement, total)
        return total


COMPOSITIONS: dict[str, type[SplineVelocity]] = {"single": SplineVelocity, "stages": StagedVelocity}
