# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Spatial transforms in memory: chains of affine maps, displacement fields and splines, in RAS mm.

The module ``mapping`` applies them to points and images with torch; this module does not import torch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .comparison import same_grid
from .grid import Grid, apply_affine
from .steps import AffineStep, FieldStep, Step

if TYPE_CHECKING:
    import torch
    from monai.data.meta_tensor import MetaTensor

    Points = TypeVar("Points", torch.Tensor, np.ndarray)

__all__ = ["SpatialTransform", "product"]


@dataclass(frozen=True, eq=False)
class SpatialTransform:
    """A map from points of the fixed image to points of the moving image, RAS mm.

    Images are mapped in the opposite direction: the moving image is resampled to a fixed grid by sampling it at the mapped
    grid points.

    Args:
        steps: steps in the order in which they are applied to points.
        inverse_steps: steps of the inverse map, if known.

    Raises:
        ValueError: if there are no steps, or they differ in the number of dimensions.
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
        """Transform of an affine matrix, ``(D + 1, D + 1)``, RAS mm."""
        return cls((AffineStep(matrix),))

    @classmethod
    def of_field(
        cls,
        displacement_mm: torch.Tensor | np.ndarray,
        grid: Grid,
        inverse: tuple[torch.Tensor | np.ndarray, Grid] | None = None,
    ) -> SpatialTransform:
        """Transform of a displacement ``(D, *grid.shape)``, RAS mm, optionally with the inverse displacement and its grid."""
        back = None if inverse is None else (FieldStep(*inverse),)
        return cls((FieldStep(displacement_mm, grid),), back)

    @classmethod
    def of_ddf(cls, ddf: torch.Tensor, grid: Grid, moving: Grid | None = None) -> SpatialTransform:
        """Transform of a DDF in MONAI's convention: fixed voxel x maps to voxel ``x + ddf(x)`` of the moving image.

        Args:
            ddf: ``(D, *grid.shape)``, voxels.
            grid: grid of the fixed image.
            moving: grid of the moving image; the fixed grid if not given.
        """
        from .mapping import displacement_of_ddf

        return cls.of_field(displacement_of_ddf(ddf, grid, moving), grid)

    def ddf(self, grid: Grid, moving: Grid | None = None) -> torch.Tensor:
        """The inverse of :meth:`of_ddf`: ``(D, *grid.shape)`` float32, voxels of the moving grid (default: of ``grid``)."""
        from .mapping import ddf_of_displacement

        return ddf_of_displacement(self.displacement(grid), grid, moving)

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
        """The composed map as a matrix ``(D + 1, D + 1)``, RAS mm.

        Raises:
            ValueError: if the transform is not affine.
        """
        if not self.is_affine:
            raise ValueError("a transform with a deformation cannot be written as a matrix")
        return product(self.steps)

    @property
    def domain(self) -> Grid | None:
        """Domain of the first deformation, as a grid in fixed space; None for an affine map."""
        for count, step in enumerate(self.steps):
            if not isinstance(step, AffineStep):
                grid = step.domain
                return Grid(grid.shape, np.linalg.solve(product(self.steps[:count]), grid.affine)) if count else grid
        return None

    @property
    def known_inverse(self) -> tuple[Step, ...] | None:
        """Steps of the inverse, if available without iteration; otherwise None."""
        if self.inverse_steps is None and self.is_affine:
            return tuple(step.inverted() for step in reversed(self.steps) if isinstance(step, AffineStep))
        return self.inverse_steps

    def points(self, points: Points) -> Points:
        """Map points of the fixed image to the moving image, ``(N, D)`` float64, RAS mm, tensor or array."""
        from .mapping import mapped

        return mapped(self.steps, points)

    def displacement(self, grid: Grid) -> torch.Tensor:
        """The composed map as a displacement on any grid, ``(D, *grid.shape)`` float32, RAS mm."""
        from .mapping import displacement

        self._check(grid)
        return displacement(self.steps, grid)

    def displacement_array(self, grid: Grid) -> np.ndarray:
        """:meth:`displacement` as an array; does not import torch if no interpolation is needed."""
        self._check(grid)
        first, rest = self.steps[0], self.steps[1:]
        start = first.array if isinstance(first, FieldStep) and same_grid(first.grid, grid) else None
        linear = self.steps if start is None else rest
        if not all(isinstance(step, AffineStep) for step in linear):
            return self.displacement(grid).cpu().numpy()
        if not linear:
            assert start is not None
            return start
        points = grid.points()
        ends = apply_affine(product(linear), points if start is None else points + np.moveaxis(start, 0, -1))
        return np.ascontiguousarray(np.moveaxis(ends - points, -1, 0), dtype=np.float32)

    def then(self, other: SpatialTransform) -> SpatialTransform:
        """``x -> other(self(x))``."""
        back, other_back = self.known_inverse, other.known_inverse
        inverse = None if back is None or other_back is None else other_back + back
        return SpatialTransform(self.steps + other.steps, inverse)

    def inverse(self, grid: Grid | None = None) -> SpatialTransform:
        """The map from points of the moving image to points of the fixed image.

        It is exact for affine maps and if the inverse is known; otherwise each deformation is inverted numerically.

        Args:
            grid: grid of the inverse (usually the moving grid); by default grids that cover the mapped deformation domains.

        Raises:
            ValueError: if the grid has other dimensions, or the default grid of a deformation would be too large.
        """
        known = self.known_inverse
        if known is not None:
            return SpatialTransform(known, self.steps)
        from .mapping import inverted

        if grid is not None:
            self._check(grid)
        return SpatialTransform(inverted(self.steps, grid), self.steps)

    def split(self, grid: Grid, matrix: np.ndarray | None = None) -> SpatialTransform:
        """The same map as one displacement on a grid followed by an affine map, as in ANTs.

        Args:
            matrix: the affine map; by default the affine steps at the end, or, if there are none, the best-fitting affine map.
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
            return product(self.steps[end:])
        from .mapping import nearest_affine

        return nearest_affine(self.steps, grid)

    def warp(self, image: torch.Tensor, image_grid: Grid, grid: Grid, mode: str = "bilinear") -> MetaTensor:
        """Resample the moving image to a grid in fixed space, see :func:`monai_locor.geometry.warped`."""
        from .mapping import warped

        return warped(image, image_grid, self.displacement(grid), grid, mode)

    def warp_tensors(
        self, tensors: torch.Tensor, image_grid: Grid, grid: Grid, mode: str = "bilinear", axes: str = "voxels"
    ) -> MetaTensor:
        """Resample symmetric tensors of the moving image to a grid in fixed space, and reorient them.

        Components are interpolated independently, then the tensors are reoriented by preservation of the principal
        direction, see :func:`monai_locor.geometry.reorientation.turned_tensors`. They are zero outside the image.

        Args:
            tensors: ``(6, *image_grid.shape)``, xx, xy, yy, xz, yz, zz, as in NIfTI.
            mode: see :func:`monai_locor.geometry.warp`.
            axes: coordinate system of the components: ``"voxels"`` for the array axes, as in ANTs, DTI-TK and FSL, or
                ``"world"``, as in MRtrix.

        Returns:
            ``(6, *grid.shape)``.

        Raises:
            ValueError: if ``axes`` is neither, or there are not six components in three dimensions.
        """
        from .mapping import warped_tensors

        self._check(grid)
        return warped_tensors(tensors, image_grid, self.displacement(grid), grid, mode, axes)

    def _check(self, grid: Grid) -> None:
        if grid.dims != self.dims:
            raise ValueError(f"a transform of {self.dims} dimensions does not act on a grid of shape {grid.shape}")


def product(steps: Sequence[Step]) -> np.ndarray:
    """The composed matrix of one or more affine steps, ``(D + 1, D + 1)``."""
    matrices = [step.matrix for step in steps if isinstance(step, AffineStep)]
    return functools.reduce(lambda before, after: after @ before, matrices)
