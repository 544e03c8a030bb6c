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

"""Where each sample of a level comes from in the other image: all grids and maps composed into one.

Both directions end in positions that ``grid_sample`` takes, so that the other image is sampled once, on its own voxels.
"""

from __future__ import annotations

import numpy as np
import torch

from monai_locor.geometry import Grid, identity_points, sample_normalized, to_normalized, voxel_to_voxel
from monai_locor.networks.velocity import SplineVelocity, interpolation_matrix, separable

__all__ = ["ForwardCoordinates", "InverseCoordinates"]


def _normalizing(shape: tuple[int, ...]) -> np.ndarray:
    """Voxels to [-1, 1], rows in the reversed axis order of ``grid_sample``, ``(D, D + 1)``."""
    scale, offset = to_normalized(shape)
    return np.hstack((np.diag(scale), np.array(offset)[:, None]))[::-1]


class _Coordinates:
    """Constants that both directions share.

    Args:
        level: grid of the samples.
        fixed: fixed grid, whose axes the lattice follows.
        other: grid of the image that is sampled.
        velocity: gives the lattice.
    """

    def __init__(self, level: Grid, fixed: Grid, other: Grid, velocity: SplineVelocity) -> None:
        self.dims = level.dims
        self.device = velocity.coefficients.device
        to_other = _normalizing(other.shape) @ np.linalg.inv(other.affine)  # world to normalised
        self.to_other = self._double(np.vstack((to_other, np.eye(1, level.dims + 1, level.dims))))
        self.directions = self._double(fixed.affine[:-1, :-1] / fixed.spacing * velocity.step)  # lattice voxels to mm
        self.level = self._double(level.affine)
        self.index = identity_points(level.shape, self.device).flatten(1)
        self.upsample: list[torch.Tensor] = []

    def _double(self, value: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(value), device=self.device)

    def _interpolate_at(self, positions: np.ndarray, size: int) -> None:
        self.upsample.append(self._double(interpolation_matrix(positions, size)).float())

    def _assemble(self, matrix: torch.Tensor, linear: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Normalised positions of all samples, ``(1, N, D)``.

        Args:
            matrix: from world points at the samples to world points in the other image.
            linear: from displacements in lattice voxels to mm in the other image's world.
            displacement: ``(D, *level)`` in lattice voxels or None.
        """
        points = _transformed((self.to_other @ matrix @ self.level).float(), self.index)
        if displacement is not None:
            to_other = self.to_other[: self.dims, : self.dims]
            points = torch.addmm(points, displacement.flatten(1).T, (to_other @ linear).float().T)
        return points[None]


class ForwardCoordinates(_Coordinates):
    """From samples of the fixed image into the moving image: ``A (x + u(x))``."""

    def __init__(self, level: Grid, fixed: Grid, moving: Grid, velocity: SplineVelocity) -> None:
        super().__init__(level, fixed, moving, velocity)
        matrix = voxel_to_voxel(level, fixed)  # diagonal: the level follows the fixed image's axes
        for axis in range(level.dims):
            voxels = matrix[axis, -1] + matrix[axis, axis] * np.arange(level.shape[axis])
            self._interpolate_at(velocity.lattice_positions(voxels, axis), velocity.shape[axis])

    def __call__(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Positions ``(1, N, D)`` from the matrix of fixed to moving world points and the lattice's displacement."""
        linear = matrix[: self.dims, : self.dims] @ self.directions  # the affine comes after the displacement
        return self._assemble(matrix, linear, None if displacement is None else separable(self.upsample, displacement))


class InverseCoordinates(_Coordinates):
    """From samples of the moving image into the fixed image: ``p + w(p)`` with ``p = A^-1 y``.

    ``w`` is looked up on a grid about as coarse as its lattice and interpolated from there: it holds no finer detail.
    """

    def __init__(self, level: Grid, fixed: Grid, velocity: SplineVelocity) -> None:
        super().__init__(level, fixed, fixed, velocity)
        to_voxels = np.linalg.inv(fixed.affine)
        lattice = np.diag([*(fixed.spacing / velocity.step), 1.0])
        lattice[:-1, -1] = velocity.margin / velocity.step
        self.to_lattice = self._double(_normalizing(velocity.shape) @ lattice @ to_voxels)
        size = np.array(level.shape)
        nodes = np.where(size > 1, np.ceil((size - 1) * level.spacing / velocity.step) + 1, 1).astype(int)
        stretch = (size - 1) / np.maximum(nodes - 1, 1)
        self.nodes = tuple(nodes.tolist())
        self.node_affine = self._double(level.affine @ np.diag([*stretch, 1.0]))
        self.node_index = identity_points(self.nodes, self.device).flatten(1)
        for n, m in zip(level.shape, self.nodes, strict=True):
            self._interpolate_at(np.arange(n) * ((m - 1) / max(n - 1, 1)), m)

    def __call__(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Positions ``(1, N, D)`` from the matrix of moving to fixed world points and the lattice's displacement."""
        if displacement is not None:
            points = _transformed((self.to_lattice @ matrix @ self.node_affine).float(), self.node_index)
            values = sample_normalized(displacement[None], points[None], padding_mode="border")[0]
            displacement = separable(self.upsample, values.reshape(self.dims, *self.nodes))
        return self._assemble(matrix, self.directions, displacement)


def _transformed(matrix: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``(N, D)`` from indices ``(D, N)``."""
    dims = len(index)
    return torch.addmm(matrix[:dims, dims], index.T, matrix[:dims, :dims].T)
