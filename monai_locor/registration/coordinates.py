# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Position of each sample of a level in the other image, with all grids and maps composed into one.

A map is computed at the nodes of a coarse grid and interpolated linearly, which is exact: the affine part is linear, and
the deformation is piecewise linear on its lattice. Both directions return positions for ``grid_sample``, so that the other
image is interpolated only once, from its own voxels.
"""

from __future__ import annotations

import numpy as np
import torch

from ..geometry import (
    Grid,
    identity_points,
    interpolation_matrix,
    sample_planar,
    separable,
    to_normalized,
    voxel_to_voxel,
)
from ..networks.velocity import SplineVelocity

__all__ = ["ForwardCoordinates", "InverseCoordinates", "lattice_directions", "normalizing", "transformed"]


def normalizing(shape: tuple[int, ...]) -> np.ndarray:
    """Return the matrix from voxels to [-1, 1], ``(D, D + 1)``, with rows in the reversed axis order of ``grid_sample``."""
    scale, offset = to_normalized(shape)
    return np.hstack((np.diag(scale), np.array(offset)[:, None]))[::-1]


def lattice_directions(fixed: Grid, velocity: SplineVelocity) -> np.ndarray:
    """Return the matrix from displacements in lattice voxels, last axis first, to mm, ``(D, D)``."""
    axes: np.ndarray = fixed.affine[:-1, :-1] / fixed.spacing * velocity.step
    return axes[:, ::-1].copy()


class _Coordinates:
    """Base class of both directions, with their constants.

    Args:
        level: grid of the samples.
        fixed: fixed grid; the lattice has its axes.
        other: grid of the image to be sampled.
        velocity: velocity that defines the lattice; None for an affine map.
        device: device of the result.

    Attributes:
        shape: shape of the level.
        product, product_shape: see :meth:`_compose`.
        upsample: interpolation matrices from nodes to samples, one per axis, float32.
        used: where that of the first axis is not zero, on the host.
    """

    def __init__(
        self, level: Grid, fixed: Grid, other: Grid, velocity: SplineVelocity | None, device: torch.device | str
    ) -> None:
        self.dims, self.shape, self.device = level.dims, level.shape, torch.device(device)
        self.to_other = normalizing(other.shape) @ np.linalg.inv(other.affine)  # world to normalized
        if velocity is not None:
            self.directions = lattice_directions(fixed, velocity)

    def _compose(self, left: np.ndarray, right: np.ndarray) -> None:
        """Set the matrices between which that of a call stands; their product with it is one operation."""
        self.product_shape = len(left), right.shape[1]
        self.product = self._double(np.kron(left, right.T))

    def _double(self, value: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(value, dtype=np.float64, order="C")).to(self.device, non_blocking=True)

    def _place_nodes(self, nodes: tuple[int, ...], affine: np.ndarray, positions: list[np.ndarray]) -> None:
        """Set the nodes from their affine (to world) and the positions of the samples relative to them, one list per axis."""
        self.nodes, self.node_affine = nodes, affine
        self.node_index = identity_points(nodes, self.device)
        self.index = self.node_index.flatten(1)
        matrices = [interpolation_matrix(p, n) for p, n in zip(positions, nodes, strict=True)]
        self.upsample = [self._double(m).float() for m in matrices]
        self.used = matrices[0].astype(np.float32) != 0

    def _place_nodes_along(self, level: Grid, step: float) -> None:
        """Set nodes at most ``step`` mm apart along the level's axes, but no more than samples.

        The outermost nodes coincide with the outermost samples.
        """
        size = np.array(level.shape)
        # the tolerance prevents rounding errors from adding a node
        intervals = np.maximum(np.ceil((size - 1) * level.spacing / step - 1e-6), 1)
        nodes = np.minimum(intervals + 1, size).astype(int)
        stretch = (size - 1) / np.maximum(nodes - 1, 1)
        positions = [np.arange(n) * ((m - 1) / max(n - 1, 1)) for n, m in zip(level.shape, nodes, strict=True)]
        self._place_nodes(tuple(nodes.tolist()), level.affine @ np.diag([*stretch, 1.0]), positions)

    def _move(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the matrix from lattice voxels to mm of the other image, ``(D, D)``, and the displacement at the nodes."""
        raise NotImplementedError

    def __call__(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the normalized positions of the nodes in the other image, ``(D, *nodes)``, last axis of that image first.

        Args:
            matrix: ``(D + 1, D + 1)`` float64, from world points at the samples to world points in the other image.
            displacement: displacement on the lattice, ``(D, *lattice)`` in its voxels, last axis first; or None.
        """
        raise NotImplementedError

    def _columns(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return linear part, shift and, if there is one, effect of the displacement of the composed matrices."""
        rows, columns = self.product_shape
        sizes = [self.dims, 1] + ([self.dims] if columns > self.dims + 1 else [])
        return (self.product @ matrix.flatten()).to(self.index).view(rows, columns).split(sizes, 1)

    def displacement_mm(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Return the displacement of the samples, ``(D, *level)`` float32, RAS mm; arguments as for :meth:`__call__`."""
        change = (matrix - torch.eye(self.dims + 1, dtype=torch.float64, device=self.device)) @ self._double(self.node_affine)
        nodes = transformed(change, self.node_index.double())
        linear, moved = self._move(matrix, displacement)
        if moved is not None:
            nodes = nodes + torch.tensordot(linear, moved.double(), dims=1)
        return separable(self.upsample, nodes.float())


class ForwardCoordinates(_Coordinates):
    """From samples of the fixed image into the moving image: ``A (x + u(x))``. The nodes are the lattice itself."""

    def __init__(
        self,
        level: Grid,
        fixed: Grid,
        moving: Grid,
        velocity: SplineVelocity | None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(level, fixed, moving, velocity, device)
        if velocity is None:
            self._place_nodes_along(level, np.inf)
        else:
            matrix = voxel_to_voxel(level, fixed)  # diagonal: the level has the fixed image's axes
            voxels = [matrix[axis, -1] + matrix[axis, axis] * np.arange(n) for axis, n in enumerate(level.shape)]
            positions = [velocity.lattice_positions(v, axis) for axis, v in enumerate(voxels)]
            self._place_nodes(velocity.shape, velocity.lattice.affine, positions)
        columns = [] if velocity is None else [np.vstack((self.directions, np.zeros((1, self.dims))))]
        self._compose(self.to_other, np.hstack((self.node_affine, *columns)))

    def _move(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        # the affine is applied after the displacement
        if displacement is None:
            return matrix, None
        return matrix[: self.dims, : self.dims] @ self._double(self.directions), displacement

    def __call__(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """See the base class."""
        linear, shift, *move = self._columns(matrix)
        points = torch.addmm(shift, linear, self.index)
        if displacement is not None:
            points = torch.addmm(points, move[0], displacement.flatten(1))
        return points.view(self.dims, *self.nodes)


class InverseCoordinates(_Coordinates):
    """From samples of the moving image into the fixed image: ``p + w(p)`` with ``p = A^-1 y``.

    ``w`` is interpolated at nodes with about the spacing of its lattice.
    """

    def __init__(self, level: Grid, fixed: Grid, velocity: SplineVelocity | None, device: torch.device | str = "cpu") -> None:
        super().__init__(level, fixed, fixed, velocity, device)
        self._place_nodes_along(level, np.inf if velocity is None else velocity.step)
        left = self.to_other
        if velocity is not None:
            lattice = np.diag([*(fixed.spacing / velocity.step), 1.0])
            lattice[:-1, -1] = velocity.margin / velocity.step
            to_lattice = normalizing(velocity.shape) @ lattice @ np.linalg.inv(fixed.affine)
            left = np.vstack((left, to_lattice))
            self.move = self._double(self.to_other[:, :-1] @ self.directions).float()
        self._compose(left, self.node_affine)

    def _move(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if displacement is None:
            return matrix, None
        where = self._without_displacement(matrix)[self.dims :]
        return self._double(self.directions), self._at_nodes(displacement, where).view(self.dims, *self.nodes)

    def __call__(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """See the base class."""
        points, *where = self._without_displacement(matrix).split(self.dims)
        if displacement is not None:
            points = torch.addmm(points, self.move, self._at_nodes(displacement, where[0]))
        return points.view(self.dims, *self.nodes)

    def _without_displacement(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return normalized positions of the nodes in the image and, if there is one, on the lattice, ``(D or 2 D, N)``."""
        linear, shift = self._columns(matrix)
        return torch.addmm(shift, linear, self.index)

    def _at_nodes(self, displacement: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """Sample the displacement at normalized positions on the lattice, both ``(D, N)``."""
        return sample_planar(displacement[None], where.view(1, self.dims, *self.nodes), "border").view(self.dims, -1)


def transformed(matrix: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Apply the upper rows of a matrix with D + 1 columns to indices or points ``(D, ...)``; return ``(D, ...)``."""
    dims = len(index)
    matrix = matrix.to(index)
    return torch.tensordot(matrix[:dims, :dims], index, dims=1) + matrix[:dims, dims].reshape(-1, *(1,) * (index.ndim - 1))
