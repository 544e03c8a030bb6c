# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The components of a spatial transform: affine, displacement field, cubic B-spline; from RAS mm to RAS mm.

torch is imported only when points are mapped.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .grid import Grid

if TYPE_CHECKING:
    import torch

__all__ = ["AffineStep", "FieldStep", "SplineStep", "Step", "world_points", "world_to_voxels"]


@dataclass(frozen=True, eq=False)
class AffineStep:
    """``x -> M x`` in homogeneous coordinates.

    Args:
        matrix: ``(D + 1, D + 1)``, RAS mm, D = 2 or 3.

    Raises:
        ValueError: if the matrix is not finite, is singular or does not have the last row 0 ... 0 1.
    """

    matrix: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape not in ((3, 3), (4, 4)) or not np.isfinite(matrix).all():
            raise ValueError(f"an affine is a finite 3x3 or 4x4 matrix, got {matrix.tolist()}")
        scale = np.sqrt((matrix[:-1, :-1] ** 2).sum(0))
        # determinant of unit columns: independent of scale, zero if the columns are linearly dependent
        if (scale == 0).any() or abs(np.linalg.det(matrix[:-1, :-1] / scale)) < 1e-9:
            raise ValueError(f"the matrix is singular: {matrix.tolist()}")
        if not np.allclose(matrix[-1], np.eye(len(matrix))[-1], rtol=0, atol=1e-9):
            raise ValueError(f"the last row of an affine is 0 ... 0 1, got {matrix[-1].tolist()}")
        matrix[-1] = np.eye(len(matrix))[-1]
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @property
    def dims(self) -> int:
        """Number of spatial dimensions D."""
        return len(self.matrix) - 1

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        """Map points ``(N, D)``, float64."""
        import torch

        matrix = torch.from_numpy(self.matrix.copy()).to(points.device)
        return points @ matrix[:-1, :-1].T + matrix[:-1, -1]

    def inverted(self) -> AffineStep:
        """The exact inverse."""
        return AffineStep(np.linalg.inv(self.matrix))


class _Vectors:
    """Vectors on a grid, as an array or a tensor; one is created from the other on demand."""

    what = ""
    kind = "float32"

    def __init__(self, values: torch.Tensor | np.ndarray, grid: Grid) -> None:
        if tuple(values.shape) != (grid.dims, *grid.shape):
            raise ValueError(f"{self.what} of shape {tuple(values.shape)} do not fit a grid of shape {grid.shape}")
        if grid.dims not in (2, 3):
            raise ValueError(f"a transform has two or three dimensions, got {grid.dims}")
        self.grid = grid
        self._array: np.ndarray | None = None
        self._tensor: torch.Tensor | None = None
        if isinstance(values, np.ndarray):
            array = np.ascontiguousarray(values, dtype=self.kind)
            self._array = array if array.flags.writeable else array.copy()  # torch shares memory, and warns if it is read-only
            finite = bool(np.isfinite(self._array).all())
        else:
            import torch

            self._tensor = values.detach().to(getattr(torch, self.kind))
            finite = bool(torch.isfinite(self._tensor).all())
        if not finite:
            raise ValueError(f"{self.what} of shape {tuple(values.shape)} hold NaN or infinite values")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(grid of {self.grid.shape})"

    @property
    def dims(self) -> int:
        """Number of spatial dimensions D."""
        return self.grid.dims

    @property
    def array(self) -> np.ndarray:
        """The vectors on the CPU, ``(D, *grid.shape)``, RAS mm; do not modify."""
        if self._array is None:
            assert self._tensor is not None
            self._array = self._tensor.cpu().numpy()
        return self._array

    def _as_tensor(self) -> torch.Tensor:
        if self._tensor is None:
            import torch

            self._tensor = torch.from_numpy(self._array)
        return self._tensor


class FieldStep(_Vectors):
    """``x -> x + u(x)``, interpolated linearly.

    As in ITK, ``u`` is constant up to half a voxel beyond the outermost voxel centers and zero farther out.

    Args:
        displacement: ``u``, ``(D, *grid.shape)``, RAS mm, tensor or array; stored as float32.
        grid: grid of the displacement.

    Raises:
        ValueError: if it does not fit the grid or is not finite.
    """

    what = "a displacement"

    def __init__(self, displacement: torch.Tensor | np.ndarray, grid: Grid) -> None:
        super().__init__(displacement, grid)

    @property
    def displacement(self) -> torch.Tensor:
        """``u``, ``(D, *grid.shape)``, float32, RAS mm."""
        return self._as_tensor()

    @property
    def domain(self) -> Grid:
        """The grid on which the map is defined."""
        return self.grid

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        """Map points ``(N, D)``, float64."""
        import torch

        from .sampling import sample
        from .warping import inside

        voxels = world_to_voxels(points.to(self.displacement.device), self.grid)
        values = sample(self.displacement[None], voxels.float()[None], padding_mode="border")[0].double()
        return points.to(values.device) + torch.where(inside(voxels, self.grid.shape, margin=-0.5), values, 0).T


class SplineStep(_Vectors):
    """``x -> x + u(x)`` with a uniform cubic B-spline ``u``.

    As in ITK and elastix, ``u`` is zero where any of its 4^D coefficients is missing: less than one node spacing from the
    border of the lattice.

    Args:
        coefficients: ``(D, *grid.shape)``, RAS mm, tensor or array; stored as float64.
        grid: lattice of the coefficients, with at least four nodes along each axis.

    Raises:
        ValueError: if they do not fit the lattice or are not finite.
    """

    what = "coefficients"
    kind = "float64"

    def __init__(self, coefficients: torch.Tensor | np.ndarray, grid: Grid) -> None:
        super().__init__(coefficients, grid)
        if min(self.grid.shape) < 4:
            raise ValueError(f"a cubic spline needs four nodes along each axis, got {self.grid.shape}")

    @property
    def coefficients(self) -> torch.Tensor:
        """Spline coefficients ``(D, *grid.shape)``, float64, RAS mm."""
        return self._as_tensor()

    @property
    def domain(self) -> Grid:
        """Grid over the region where the map is defined, with a quarter of the node spacing."""
        fine = np.eye(self.dims + 1)
        fine[:-1, :-1], fine[:-1, -1] = 0.25 * np.eye(self.dims), 1
        return Grid(tuple(4 * (n - 3) + 1 for n in self.grid.shape), self.grid.affine @ fine)

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        """Map points ``(N, D)``, float64."""
        import torch

        from .bspline import cubic_weights
        from .warping import inside

        points = points.to(self.coefficients.device)
        nodes = world_to_voxels(points, self.grid)
        limits = torch.tensor(self.grid.shape, device=nodes.device)[:, None] - 4
        first = torch.minimum((nodes.floor().long() - 1).clamp(min=0), limits)
        weights = cubic_weights(nodes - 1 - first)  # (4, D, N)
        value = torch.zeros_like(points)
        for taps in itertools.product(range(4), repeat=self.dims):
            index = tuple(first[axis] + tap for axis, tap in enumerate(taps))
            weight = torch.stack([weights[tap, axis] for axis, tap in enumerate(taps)]).prod(0)
            value += (weight * torch.stack([component[index] for component in self.coefficients])).T
        return points + torch.where(inside(nodes, self.grid.shape, margin=1.0)[:, None], value, 0)


#: any component of a spatial transform
Step: TypeAlias = AffineStep | FieldStep | SplineStep


def world_to_voxels(points: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Convert world points ``(N, D)``, mm, to voxels ``(D, N)`` of a grid, float64."""
    import torch

    matrix = torch.from_numpy(np.linalg.inv(grid.affine)).to(points.device)
    return matrix[:-1, :-1] @ points.T + matrix[:-1, -1:]


def world_points(grid: Grid) -> torch.Tensor:
    """World positions of all voxels of a grid, ``(N, D)``, mm, float64."""
    import torch

    return torch.from_numpy(grid.points().reshape(-1, grid.dims))
