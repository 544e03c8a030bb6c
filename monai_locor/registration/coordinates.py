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
from torch import nn

from monai_locor.geometry import Grid, identity_points, sample_normalized, to_normalized, voxel_to_voxel
from monai_locor.networks.velocity import SplineVelocity, interpolation_matrix, separable

__all__ = ["ForwardCoordinates", "InverseCoordinates"]


def _normalizing(shape: tuple[int, ...]) -> np.ndarray:
    """Voxels to [-1, 1], rows in the reversed axis order of ``grid_sample``, ``(D, D + 1)``."""
    scale, offset = to_normalized(shape)
    return np.hstack((np.diag(scale), np.array(offset)[:, None]))[::-1]


class _Coordinates(nn.Module):
    """Constants that both directions share.

    Args:
        level: grid of the samples.
        fixed: fixed grid, whose axes the lattice follows.
        other: grid of the image that is sampled.
        velocity: gives the lattice.
    """

    def __init__(self, level: Grid, fixed: Grid, other: Grid, velocity: SplineVelocity) -> None:
        super().__init__()
        device = velocity.coefficients.device
        to_other = _normalizing(other.shape) @ np.linalg.inv(other.affine)  # world to normalised
        directions = fixed.affine[:-1, :-1] / fixed.spacing * velocity.step  # lattice voxels to mm
        self._constant("to_other", np.vstack((to_other, np.eye(1, level.dims + 1, level.dims))), device)
        self._constant("level", level.affine, device)
        self._constant("directions", directions, device)
        self.register_buffer("index", identity_points(level.shape, device).flatten(1), persistent=False)

    def _constant(self, name: str, value: np.ndarray, device: torch.device) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)).to(device), persistent=False)

    def _assemble(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """``to_other matrix (x + u)`` for all samples, ``(1, N, D)``; u ``(D, *level)`` in lattice voxels or None."""
        dims = self.directions.shape[0]
        through = self.to_other @ matrix
        placed = (through @ self.level).float()
        points = torch.addmm(placed[:dims, dims], self.index.T, placed[:dims, :dims].T)
        if displacement is not None:
            points = torch.addmm(points, displacement.flatten(1).T, (through[:dims, :dims] @ self.directions).float().T)
        return points[None]


class ForwardCoordinates(_Coordinates):
    """From samples of the fixed image into the moving image: ``A (x + u(x))``."""

    def __init__(self, level: Grid, fixed: Grid, moving: Grid, velocity: SplineVelocity) -> None:
        super().__init__(level, fixed, moving, velocity)
        origin, step = _axis_positions(level, fixed)
        for axis in range(level.dims):
            millimetres = (origin[axis] + step[axis] * np.arange(level.shape[axis])) * fixed.spacing[axis]
            where = velocity.lattice_positions(millimetres)
            self._constant(f"upsample_{axis}", interpolation_matrix(where, velocity.shape[axis]).astype(np.float32), self.index.device)

    def forward(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Positions ``(1, N, D)`` from the matrix of fixed to moving world points and the lattice's displacement."""
        if displacement is not None:
            displacement = separable([getattr(self, f"upsample_{i}") for i in range(len(displacement))], displacement)
        return self._assemble(matrix, displacement)


class InverseCoordinates(_Coordinates):
    """From samples of the moving image into the fixed image: ``p + w(p)`` with ``p = A^-1 y``.

    ``w`` is looked up on a grid about as coarse as its lattice and interpolated from there: it holds no finer detail.
    """

    def __init__(self, level: Grid, fixed: Grid, velocity: SplineVelocity) -> None:
        super().__init__(level, fixed, fixed, velocity)
        world_to_lattice = np.eye(level.dims + 1)
        world_to_lattice[:-1, :-1] = np.diag(fixed.spacing / velocity.step)
        world_to_lattice[:-1, -1] = velocity.margin / velocity.step
        to_lattice = _normalizing(velocity.shape) @ world_to_lattice @ np.linalg.inv(fixed.affine)
        self._constant("to_lattice", to_lattice, self.index.device)
        self.nodes = tuple(
            int(max(2, np.ceil((n - 1) * s / velocity.step) + 1)) if n > 1 else 1 for n, s in zip(level.shape, level.spacing, strict=True)
        )
        stretch = np.diag([*((n - 1) / max(m - 1, 1) for n, m in zip(level.shape, self.nodes, strict=True)), 1.0])
        self._constant("node_affine", level.affine @ stretch, self.index.device)
        self.register_buffer("node_index", identity_points(self.nodes, self.index.device).flatten(1), persistent=False)
        for axis, (n, m) in enumerate(zip(level.shape, self.nodes, strict=True)):
            where = np.arange(n) * ((m - 1) / max(n - 1, 1))
            self._constant(f"upsample_{axis}", interpolation_matrix(where, m).astype(np.float32), self.index.device)

    def forward(self, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        """Positions ``(1, N, D)`` from the matrix of moving to fixed world points and the lattice's displacement."""
        if displacement is not None:
            dims = len(displacement)
            placed = (self.to_lattice @ matrix @ self.node_affine).float()
            points = torch.addmm(placed[:, dims], self.node_index.T, placed[:, :dims].T)
            nodes = sample_normalized(displacement[None], points[None], padding_mode="border")[0]
            displacement = separable(
                [getattr(self, f"upsample_{i}") for i in range(dims)], nodes.reshape(dims, *self.nodes)
            )
        return self._assemble(matrix, displacement)


def _axis_positions(level: Grid, fixed: Grid) -> tuple[np.ndarray, np.ndarray]:
    """First sample and distance of samples along each fixed axis, in fixed voxels."""
    matrix = voxel_to_voxel(level, fixed)
    return matrix[:-1, -1], np.diag(matrix)[:-1]
