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

"""Spatial transforms in memory: chains of affine maps, displacement fields and splines, in RAS mm."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from ..precision import guarded
from ..tensors import on_device, plain
from .axiswise import slabs
from .grid import Grid, voxel_to_voxel
from .inversion import fitted_affine, inverted_step
from .sampling import identity_points
from .steps import AffineStep, FieldStep, Step, world_points
from .warping import from_voxels, to_voxels, warp

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

__all__ = ["SpatialTransform", "warped"]

SLAB = 2**19  # points that are mapped together
Points = TypeVar("Points", torch.Tensor, np.ndarray)


@dataclass(frozen=True, eq=False)
class SpatialTransform:
    """A map from points of the fixed image to points of the moving image, RAS mm.

    Images go the other way: the moving image is brought onto a fixed grid by reading it where the grid's points are taken.

    Args:
        steps: applied to points one after the other, the first first.
        inverse_steps: of the inverse map, where it is known.

    Raises:
        ValueError: when there are no steps, or they differ in the number of dimensions.
    """

    steps: tuple[Step, ...]
    inverse_steps: tuple[Step, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if self.inverse_steps is not None:
            object.__setattr__(self, "inverse_steps", tuple(self.inverse_steps))
        dims = {step.dims for step in (*self.steps, *(self.inverse_steps or ()))}
        if len(dims) != 1 or not self.steps:
            raise ValueError(f"a transform has steps of one number of dimensions, got {len(self.steps)} of {sorted(dims)}")

    @classmethod
    def of_affine(cls, matrix: np.ndarray) -> SpatialTransform:
        """An affine map, ``(D + 1, D + 1)``, RAS mm."""
        return cls((AffineStep(matrix),))

    @classmethod
    def of_field(
        cls, displacement_mm: torch.Tensor, grid: Grid, inverse: tuple[torch.Tensor, Grid] | None = None
    ) -> SpatialTransform:
        """A displacement ``(D, *grid.shape)``, RAS mm, and perhaps that of the inverse with its grid."""
        back = None if inverse is None else (FieldStep(*inverse),)
        return cls((FieldStep(displacement_mm, grid),), back)

    @classmethod
    @guarded
    def of_ddf(cls, ddf: torch.Tensor, grid: Grid, moving: Grid | None = None) -> SpatialTransform:
        """A DDF in MONAI's convention: the fixed voxel x is at voxel ``x + ddf(x)`` of the moving image.

        Args:
            ddf: ``(D, *grid.shape)``, voxels.
            grid: of the fixed image.
            moving: of the moving image; the fixed grid if not given.
        """
        ddf = plain(ddf).double()
        if moving is None:
            return cls.of_field(from_voxels(ddf, grid), grid)
        index = identity_points(grid.shape, ddf.device, torch.float64) + ddf
        offset = on_device(moving.affine[:-1, -1] - grid.affine[:-1, -1], ddf).reshape(-1, *[1] * grid.dims)
        start = from_voxels(identity_points(grid.shape, ddf.device, torch.float64), grid)
        return cls.of_field(from_voxels(index, moving) - start + offset, grid)

    @guarded
    def ddf(self, grid: Grid, moving: Grid | None = None) -> torch.Tensor:
        """The inverse of :meth:`of_ddf`: ``(D, *grid.shape)`` float32, voxels of the moving grid (default: of ``grid``)."""
        shift = self.displacement(grid).double()
        if moving is None:
            return to_voxels(shift, grid).float()
        index = identity_points(grid.shape, shift.device, torch.float64)
        change = on_device(voxel_to_voxel(grid, moving), shift)
        still = torch.tensordot(change[:-1, :-1], index, dims=1) + change[:-1, -1].reshape(-1, *[1] * grid.dims)
        return (still - index + to_voxels(shift, moving)).float()

    @property
    def dims(self) -> int:
        """Number of spatial dimensions D."""
        return self.steps[0].dims

    @property
    def is_affine(self) -> bool:
        """Whether all steps are affine."""
        return all(isinstance(step, AffineStep) for step in self.steps)

    @property
    def matrix(self) -> np.ndarray:
        """The whole map as a matrix ``(D + 1, D + 1)``, RAS mm.

        Raises:
            ValueError: when the transform is not affine.
        """
        if not self.is_affine:
            raise ValueError("a transform with a deformation is no matrix")
        return _product(self.steps)

    @property
    def domain(self) -> Grid | None:
        """The fixed points for which the first deformation is known; None for an affine map."""
        for count, step in enumerate(self.steps):
            if not isinstance(step, AffineStep):
                grid = step.domain
                return Grid(grid.shape, np.linalg.solve(_product(self.steps[:count]), grid.affine)) if count else grid
        return None

    @property
    def known_inverse(self) -> tuple[Step, ...] | None:
        """Steps of the inverse where no iteration is needed for them."""
        if self.inverse_steps is None and self.is_affine:
            return tuple(step.inverted() for step in reversed(self.steps) if isinstance(step, AffineStep))
        return self.inverse_steps

    @guarded
    def points(self, points: Points) -> Points:
        """Where points of the fixed image lie in the moving image, ``(N, D)`` float64, RAS mm, tensor or array."""
        given = points if isinstance(points, torch.Tensor) else torch.from_numpy(np.asarray(points))
        if given.ndim != 2 or given.shape[1] != self.dims:
            raise ValueError(f"points must be (N, {self.dims}), got {tuple(given.shape)}")
        out = self._apply(given.double()).to(given.device)
        return out if isinstance(points, torch.Tensor) else out.numpy()

    def _apply(self, points: torch.Tensor, steps: Sequence[Step] | None = None) -> torch.Tensor:
        for step in self.steps if steps is None else steps:
            points = step.apply(points)
        return points

    @guarded
    @torch.no_grad()
    def displacement(self, grid: Grid) -> torch.Tensor:
        """The whole map as a displacement on any grid, ``(D, *grid.shape)`` float32, RAS mm."""
        self._check(grid)
        first = self.steps[0]
        known = first.displacement if isinstance(first, FieldStep) and same_grid(first.grid, grid) else None
        if known is not None and len(self.steps) == 1:
            return known
        parts = []
        for rows in slabs(grid.shape, SLAB):
            part = grid.cropped([rows, *(slice(0, n) for n in grid.shape[1:])])
            start = world_points(part)
            if known is None:
                end = self._apply(start)
            else:  # nothing to interpolate
                end = self._apply(start.to(known.device) + known[:, rows].flatten(1).T, self.steps[1:])
            parts.append((end - start.to(end.device)).T.reshape(-1, *part.shape).float())
        return torch.cat(parts, 1)

    def then(self, other: SpatialTransform) -> SpatialTransform:
        """``x -> other(self(x))``."""
        back, other_back = self.known_inverse, other.known_inverse
        inverse = None if back is None or other_back is None else other_back + back
        return SpatialTransform(self.steps + other.steps, inverse)

    def inverse(self, grid: Grid | None = None) -> SpatialTransform:
        """The map from points of the moving to points of the fixed image.

        Exact for affine maps and where the inverse is known; otherwise every deformation is inverted numerically.

        Args:
            grid: where the inverse is wanted (the moving grid); default is where the deformations take their own grids.

        Raises:
            ValueError: when the grid has other dimensions, or a deformation scatters its grid too far for a default.
        """
        known = self.known_inverse
        if known is not None:
            return SpatialTransform(known, self.steps)
        if grid is not None:
            self._check(grid)
        back: list[Step] = []
        for step in reversed(self.steps):
            if isinstance(step, AffineStep):
                undone = step.inverted()
                back.append(undone)
                grid = None if grid is None else Grid(grid.shape, undone.matrix @ grid.affine)
            else:
                back.append(inverted_step(step, grid))
                grid = None  # what comes before has its own
        return SpatialTransform(tuple(back), self.steps)

    def split(self, grid: Grid, matrix: np.ndarray | None = None) -> SpatialTransform:
        """The same map as one displacement on a grid, followed by an affine map, as ANTs keeps it.

        Args:
            matrix: the affine map; if not given, the affine steps at the end, or, if there are none, the one that fits best.
        """
        self._check(grid)
        if matrix is None:
            matrix = self._affine_part(grid)
        residual = SpatialTransform((*self.steps, AffineStep(np.linalg.inv(matrix))))
        return SpatialTransform((FieldStep(residual.displacement(grid), grid), AffineStep(matrix)))

    def _affine_part(self, grid: Grid) -> np.ndarray:
        end = len(self.steps)
        while end and isinstance(self.steps[end - 1], AffineStep):
            end -= 1
        if end < len(self.steps):
            return _product(self.steps[end:])
        points = world_points(grid.resampled(np.maximum(grid.spacing, grid.extent / 32)))
        return fitted_affine(points, self._apply(points).cpu())

    def warp(self, image: torch.Tensor, image_grid: Grid, grid: Grid, mode: str = "bilinear") -> MetaTensor:
        """The moving image brought onto a grid in fixed space, see :func:`warped`."""
        return warped(image, image_grid, self.displacement(grid), grid, mode)

    def _check(self, grid: Grid) -> None:
        if grid.dims != self.dims:
            raise ValueError(f"a transform of {self.dims} dimensions does not act on a grid of shape {grid.shape}")


@guarded
def warped(image: torch.Tensor, grid: Grid, displacement_mm: torch.Tensor, target: Grid, mode: str = "bilinear") -> MetaTensor:
    """An image ``(C, *grid)`` seen through a displacement on ``target``, which gives the geometry.

    Where the image has no data the result has its smallest value, for labels (mode ``"nearest"``) zero. The type of the
    voxels is kept: whole numbers that are interpolated are rounded, a bool mask is true from one half on.
    """
    values = plain(torch.as_tensor(image)).to(displacement_mm.device)
    where = (grid, displacement_mm, target)
    out = warp(values, *where, mode) if mode == "nearest" else _interpolated(values, *where)
    affine = torch.eye(4, dtype=torch.float64, device="cpu")
    dims = target.dims
    affine[:dims, :dims], affine[:dims, 3] = (on_device(target.affine[:-1, i], affine) for i in (slice(dims), dims))
    from monai.data.meta_tensor import MetaTensor  # takes seconds to import

    return MetaTensor(out, affine=affine)


EXACT = {  # what float32 holds without loss
    *(torch.float32, torch.float16, torch.bfloat16),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16),
}


def _interpolated(values: torch.Tensor, grid: Grid, displacement_mm: torch.Tensor, target: Grid) -> torch.Tensor:
    numbers = values.to(torch.float32 if values.dtype in EXACT else torch.float64)
    low = numbers.min()  # air is not zero in CT
    out = warp(numbers - low, grid, displacement_mm, target) + low
    if values.dtype == torch.bool:
        return out >= 0.5
    return (out if values.is_floating_point() else out.round()).to(values.dtype)


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids have the same voxels, up to a thousandth of one."""
    return a.shape == b.shape and bool(np.abs(a.corners() - b.corners()).max() < 1e-3 * a.spacing.min())


def _product(steps: Sequence[Step]) -> np.ndarray:
    """The matrix of one or more affine steps, ``(D + 1, D + 1)``."""
    matrices = [step.matrix for step in steps if isinstance(step, AffineStep)]
    return functools.reduce(lambda before, after: after @ before, matrices)
