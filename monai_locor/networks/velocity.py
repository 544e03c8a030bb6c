# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A stationary velocity field of cubic B-splines and its exponential."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..geometry import Grid, cubic_bspline, interpolation_matrix, separable, to_voxels
from ..tensors import on_device, plain
from .exponential import LatticeExponential, squarings_for

__all__ = ["SplineVelocity", "spline_matrix"]


def spline_matrix(positions: np.ndarray, spacing: float, count: int) -> np.ndarray:
    """``count`` splines, the first one ``spacing`` before the origin, at positions in mm, ``(positions, count)``."""
    return cubic_bspline(positions[:, None] / spacing - (np.arange(count) - 1))


class SplineVelocity(nn.Module):
    """Stationary velocity of cubic B-splines over the fixed field of view, integrated on an isotropic lattice.

    Control points lie ``spacing`` mm apart along the fixed image's axes, the points of the integration lattice ``step`` mm.
    The lattice is isotropic in mm for any voxel size and any spacing of the control points. Therefore a displacement in its
    voxels times ``step`` is in mm, and MONAI's bending energy over its voxels divided by ``step ** 2`` is the bending energy
    in mm. Outside the lattice, the velocity continues with its border value.

    Args:
        grid: fixed grid.
        spacing: distance of control points, mm: one number, or one per axis.
        step: distance of lattice points, mm.
        margin: extent of the lattice beyond the outermost voxel centers, mm.
        squarings: number of squarings; :meth:`choose_squarings` may take fewer.
        free: whether the velocity has a component along each axis of the grid; None for all. The displacements of both
            directions are zero along the others.

    Attributes:
        coefficients: of the splines, ``(D, *knots)``, in units of ``unit`` along the fixed image's axes.
        unit: smallest distance of control points, mm.
    """

    base: torch.Tensor | None
    starts: torch.Tensor

    def __init__(
        self,
        grid: Grid,
        spacing: float | Sequence[float] | np.ndarray,
        step: float,
        margin: float = 0.0,
        squarings: int = 6,
        free: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.step, self.margin = grid, float(step), float(margin)
        self.spacing = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (grid.dims,))
        self.unit = float(self.spacing.min())
        self.length = (np.array(grid.shape) - 1) * grid.spacing + 2 * self.margin
        self.shape = tuple(max(3, math.ceil(n / step - 1e-6) + 1) for n in self.length)
        knots = tuple(max(4, math.ceil(x - 1e-6) + 3) for x in self.length / self.spacing)
        self.coefficients = nn.Parameter(torch.zeros(grid.dims, *knots, dtype=torch.float32, device="cpu"))
        for axis, n in enumerate(self.shape):
            unit = self.unit / self.step if axis == 0 else 1.0  # the velocity is in lattice voxels
            matrix = torch.from_numpy(self._evaluation(np.arange(n) * step, axis) * unit).float()
            self.register_buffer(f"basis_{axis}", matrix, persistent=False)
        self.register_buffer("base", None, persistent=False)
        self.squarings = squarings
        self.exponential = LatticeExponential(self.shape, squarings)
        self.free = (True,) * grid.dims if free is None else tuple(free)
        reverse = np.diag(self.free).astype(np.float64)[::-1]
        self.register_buffer("starts", torch.from_numpy(np.vstack((reverse, -reverse))).float(), persistent=False)

    def _evaluation(self, positions: np.ndarray, axis: int) -> np.ndarray:
        """The splines along an axis at positions in mm from the lattice's origin, ``(positions, knots)``."""
        return spline_matrix(positions, self.spacing[axis], self.coefficients.shape[axis + 1])

    @property
    def dims(self) -> int:
        """Number of spatial dimensions D."""
        return self.coefficients.shape[0]

    @property
    def free_share(self) -> float:
        """Fraction of the axes along which the velocity has a component."""
        return sum(self.free) / self.dims

    @property
    def lattice(self) -> Grid:
        """The integration lattice in world space."""
        to_fixed = np.diag([*(self.step / self.grid.spacing), 1.0])
        to_fixed[:-1, -1] = -self.margin / self.grid.spacing
        return Grid(self.shape, self.grid.affine @ to_fixed)

    def lattice_positions(self, voxels: np.ndarray, axis: int) -> np.ndarray:
        """Positions along an axis of the fixed grid, in its voxels, as voxels of the lattice."""
        return (voxels * self.grid.spacing[axis] + self.margin) / self.step

    def velocity(self) -> torch.Tensor:
        """``(D, *lattice)`` in lattice voxels: the sum of the splines and, if set, the base."""
        splines = self._splines()
        return splines if self.base is None else splines + self.base

    @torch.no_grad()
    def largest(self) -> float:
        """Largest component of the velocity, lattice voxels. Waits for the device."""
        return float(self.velocity().abs().max())

    def choose_squarings(self, growth: float = 0.0) -> None:
        """Take as many squarings as the velocity needs, at most those given at construction. Waits for the device.

        Args:
            growth: by how much the largest component may increase, lattice voxels.
        """
        self.exponential.squarings = squarings_for(self.largest() + growth, self.squarings)

    def _splines(self) -> torch.Tensor:
        matrices = [getattr(self, f"basis_{axis}") for axis in range(self.dims)]
        return separable(matrices, self.coefficients)

    @torch.no_grad()
    def fit_base(self, displacement_mm: torch.Tensor, iterations: int = 15) -> float:
        """Set the base to a velocity whose exponential approximates a given displacement.

        The remainder of the displacement after ``exp(-v)`` is added to v repeatedly (the group logarithm of Bossa 2007,
        doi 10.1007/978-3-540-75757-3_81, to first order).

        Args:
            displacement_mm: ``(D, *fixed)`` on the fixed grid, RAS mm, without its affine part.

        Returns:
            the 95th percentile of the length of the remainder, mm.
        """
        self.set_base(displacement_mm)
        assert self.base is not None
        target = self.base.clone()
        for _ in range(iterations):
            self.base = self.base + self._remainder(target)
        rest = self._remainder(target)
        lengths = rest.square().sum(0).sqrt().flatten().sort().values
        return float(lengths[int(0.95 * (len(lengths) - 1))]) * self.step

    def _remainder(self, target: torch.Tensor) -> torch.Tensor:
        """Remainder of a displacement after ``exp(-base)``, both ``(D, *lattice)`` in lattice voxels."""
        assert self.base is not None
        back = self._exponentials(self.base, [1])
        return self.exponential.follow(target.flip(0)[None], back)[0].flip(0)

    def set_base(self, velocity_mm: torch.Tensor) -> None:
        """Add a constant velocity, for instance one predicted by a network: ``(D, *fixed)`` on the fixed grid, RAS mm.

        Without its components along axes that are not free.
        """
        field = to_voxels(plain(velocity_mm).detach().to(self.coefficients), self.grid)
        matrices = [
            on_device(interpolation_matrix((np.arange(n) * self.step - self.margin) / h, m), field)
            for n, h, m in zip(self.shape, self.grid.spacing, self.grid.shape, strict=True)
        ]
        scale = on_device(self.grid.spacing / self.step * np.array(self.free), field)
        self.base = separable(matrices, field) * scale.view(-1, *(1,) * self.dims)

    def forward(self, directions: Sequence[int] = (0, 1)) -> torch.Tensor:
        """Displacements of ``exp(v)`` (direction 0) and ``exp(-v)`` (1), ``(directions, D, *lattice)``, in lattice voxels."""
        return self.reversed(directions).flip(1)

    def reversed(self, directions: Sequence[int] = (0, 1)) -> torch.Tensor:
        """:meth:`forward` with the component along the last axis first, the order of ``grid_sample``: nothing is reordered."""
        return self._exponentials(self.velocity(), directions)

    def starts_of(self, velocity: torch.Tensor, directions: Sequence[int] = (0, 1)) -> torch.Tensor:
        """The velocity of each direction, from one in array order, ``(D, *lattice)``; ordered as by :meth:`reversed`."""
        parts = self.starts.split(self.dims)  # the reversal and the sign of each direction
        matrix = self.starts if tuple(directions) == (0, 1) else torch.cat([parts[k] for k in directions])
        return (matrix @ velocity.flatten(1)).view(-1, *velocity.shape)

    def _exponentials(self, velocity: torch.Tensor, directions: Sequence[int]) -> torch.Tensor:
        """:meth:`reversed` for any velocity ``(D, *lattice)`` in lattice voxels."""
        return self.exponential(self.starts_of(velocity, directions))

    @torch.no_grad()
    def take(self, other: SplineVelocity) -> None:
        """Take over the field of ``other`` (same fixed grid); if knots differ, its least-squares approximation."""
        matrices = []
        reach = min(self.margin, other.margin)
        for axis in range(self.dims):
            # dense enough to determine every polynomial piece of either spline
            count = 8 * max(self.coefficients.shape[axis + 1], other.coefficients.shape[axis + 1])
            # mm from the outermost voxel center, since lattices of different margins have different origins
            x = np.linspace(-reach, self.length[axis] - 2 * self.margin + reach, count)
            mine = self._evaluation(x + self.margin, axis)
            theirs = other._evaluation(x + other.margin, axis)
            matrices.append(torch.from_numpy(np.linalg.lstsq(mine, theirs, rcond=1e-6)[0]))
        new = separable([m.to(other.coefficients.device) for m in matrices], other.coefficients.double())
        self.coefficients.copy_(new * (other.unit / self.unit))
