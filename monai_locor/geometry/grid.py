# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Voxel grids in world space.

World space is RAS+ in millimeters (NIfTI, MONAI). An *affine* is the ``(D + 1, D + 1)`` float64 matrix that maps
voxel indices in array order to world coordinates. Everything here is numpy on the CPU: a registration composes its few
matrices once and transfers only the products to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from .planes import full_affine, slice_affine, slice_plane

if TYPE_CHECKING:
    import torch

__all__ = ["Grid", "affine_about", "apply_affine", "or_identity", "stored_order", "voxel_to_voxel"]


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a homogeneous matrix to points.

    Args:
        affine: matrix ``(D + 1, D + 1)``.
        points: points ``(..., D)``.

    >>> apply_affine(np.diag([2.0, 1.0]), np.array([[3.0]]))
    array([[6.]])
    """
    dims = affine.shape[0] - 1
    return points @ affine[:dims, :dims].T + affine[:dims, dims]


def or_identity(affine: np.ndarray | None, dims: int) -> np.ndarray:
    """The matrix ``(D + 1, D + 1)``, or the identity for None."""
    return np.eye(dims + 1) if affine is None else affine


def affine_about(center: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Matrix ``(D + 1, D + 1)`` of the linear map ``(D, D)`` that leaves the point ``center``, ``(D,)``, where it is.

    >>> affine_about(np.array([3.0]), np.array([[2.0]]))
    array([[ 2., -3.],
           [ 0.,  1.]])
    """
    matrix = np.eye(len(center) + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = linear, center - linear @ center
    return matrix


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular voxel grid in world space (RAS+, mm).

    Args:
        shape: number of voxels along each of the D array axes.
        affine: ``(D + 1, D + 1)``, voxel indices to world mm.
        plane: plane of a slice that is not in the x-y plane of the world, ``(4, 4)``, see
            :func:`monai_locor.geometry.planes.slice_plane`; "world" then means coordinates in that plane.

    Raises:
        ValueError: if the affine has the wrong shape, is not finite or is singular.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    plane: np.ndarray | None = None

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        size = len(self.shape) + 1
        if affine.shape != (size, size):
            raise ValueError(f"the affine of a grid of shape {tuple(self.shape)} must be {size}x{size}, got {affine.shape}")
        columns = np.sqrt((affine[:-1, :-1] ** 2).sum(0))
        # determinant of unit columns, which is independent of the voxel size
        if not np.isfinite(affine).all() or (columns == 0).any() or abs(np.linalg.det(affine[:-1, :-1] / columns)) < 1e-6:
            raise ValueError(f"the affine is not invertible or not finite: {affine.tolist()}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @classmethod
    def of(cls, image: torch.Tensor) -> Grid:
        """The grid of a channel-first image ``(C, *spatial)``; a plain tensor gets an identity affine.

        A 2-D MetaTensor has MONAI's 4x4 affine, see :meth:`placed`.
        """
        shape = tuple(image.shape[1:])
        given = getattr(image, "affine", None)  # no isinstance check, since importing MetaTensor takes seconds
        return cls.placed(shape, np.eye(4) if given is None else given.detach().cpu().double().numpy())

    @classmethod
    def placed(cls, shape: Sequence[int], affine: np.ndarray) -> Grid:
        """The grid of an image with the affine of a file or MetaTensor.

        A slice in the x-y plane of the world has coordinates x and y; any other slice has in-plane coordinates.

        Args:
            shape: number of voxels along each of the D array axes.
            affine: ``(4, 4)``, or ``(D + 1, D + 1)``.
        """
        given = np.asarray(affine, dtype=np.float64)
        if len(shape) != 2 or len(given) != 4:
            return cls(tuple(shape), given)
        plane = slice_plane(given)
        return cls(tuple(shape), slice_affine(given, plane), plane)

    @property
    def full_affine(self) -> np.ndarray:
        """Affine from voxel indices to world mm in three dimensions, ``(4, 4)``, also for a slice."""
        return full_affine(self.affine, self.plane)

    @property
    def in_space(self) -> Grid:
        """A slice outside the x-y plane as a 3-D grid with one slice; other grids unchanged."""
        return self if self.plane is None else Grid((*self.shape, 1), self.full_affine)

    @property
    def placeless(self) -> bool:
        """Whether the affine is a default that readers assign if a file has none.

        For arrays and pictures this is 1 mm voxels at the origin; for NIfTI without sform and qform, and for Analyze, voxels
        centered on the origin with the first axis toward the left.
        """
        if self.plane is not None:
            return False
        linear, origin = self.affine[:-1, :-1], self.affine[:-1, -1]
        if not origin.any():
            return bool((np.abs(linear) == np.eye(self.dims)).all())
        steps = linear.diagonal()
        centered = np.array_equal(linear, np.diag(steps)) and np.array_equal(origin, -steps * (np.array(self.shape) - 1) / 2)
        return centered and bool(steps[0] < 0 < steps[1:].min())

    @property
    def dims(self) -> int:
        """Number of spatial dimensions D."""
        return len(self.shape)

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along each array axis, ``(D,)``, mm."""
        return np.sqrt((self.affine[: self.dims, : self.dims] ** 2).sum(0))

    @property
    def center(self) -> np.ndarray:
        """World position of the center of the grid, ``(D,)``, mm."""
        return apply_affine(self.affine, (np.array(self.shape, dtype=np.float64) - 1) / 2)

    @property
    def extent(self) -> np.ndarray:
        """Size of the field of view along each array axis, voxel edges included, ``(D,)``, mm."""
        return self.spacing * np.array(self.shape)

    def corners(self) -> np.ndarray:
        """World positions of the centers of the corner voxels, ``(2 ** D, D)``, mm."""
        axes = [(0.0, n - 1.0) for n in self.shape]
        return apply_affine(self.affine, np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dims))

    def points(self) -> np.ndarray:
        """World positions of all voxel centers, ``(*shape, D)``, mm, float64."""
        axes = [np.arange(n, dtype=np.float64) for n in self.shape]
        return apply_affine(self.affine, np.stack(np.meshgrid(*axes, indexing="ij"), -1))

    def resampled(self, step: Sequence[float] | np.ndarray) -> Grid:
        """The grid with ``step`` mm spacing along the same axes and with the same center.

        Each axis has at least one voxel; no voxel center is outside the outermost voxel centers of this grid.
        """
        ratio = np.asarray(step, dtype=np.float64) / self.spacing
        shape = np.floor((np.array(self.shape) - 1) / ratio + 1e-6).astype(int) + 1
        affine = np.eye(self.dims + 1)
        affine[:-1, :-1] = self.affine[:-1, :-1] * ratio
        affine[:-1, -1] = self.center - affine[:-1, :-1] @ ((shape - 1) / 2)
        return Grid(tuple(shape), affine, self.plane)

    def cropped(self, box: Sequence[slice]) -> Grid:
        """The grid of the voxels in a box, given as one ``slice(start, stop)`` per axis, at unchanged world positions."""
        affine = self.affine.copy()
        affine[:-1, -1] = apply_affine(self.affine, np.array([b.start for b in box], dtype=np.float64))
        return Grid(tuple(b.stop - b.start for b in box), affine, self.plane)

    def reordered(self, axes: Sequence[int], flips: Sequence[bool]) -> Grid:
        """The same voxels in another storage order: new axis ``i`` is old axis ``axes[i]``, reversed where ``flips[i]``."""
        shape = np.array(self.shape)[list(axes)]
        change = np.zeros((self.dims + 1, self.dims + 1))  # new index -> old index
        change[-1, -1] = 1
        for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
            change[old, new] = -1 if flip else 1
            change[old, -1] = shape[new] - 1 if flip else 0
        return Grid(tuple(shape), self.affine @ change, self.plane)

    def snapped(self) -> Grid:
        """The grid with its origin rounded to about 1e-9 of the smallest voxel size.

        Moving the origin to another corner of the image leaves an error of 1e-14. This can shift a position at a voxel center
        to its other side, where the gradient of linear interpolation differs.
        """
        unit = 2.0 ** (np.floor(np.log2(self.spacing.min())) - 30)
        affine = self.affine.copy()
        affine[:-1, -1] = np.round(affine[:-1, -1] / unit) * unit
        return Grid(self.shape, affine, self.plane)

    def canonical_order(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Axis order and flips that align the array axes best with the world axes R, A, S.

        Returns:
            ``(axes, flips)`` for :meth:`reordered`; :func:`monai_locor.geometry.stored_order` inverts them.
        """
        if self.dims == 3:
            orientation = nib.orientations.io_orientation(self.affine)
            target = [(int(world), sign < 0) for world, sign in orientation]
        else:  # nibabel supports three axes only
            linear = self.affine[:-1, :-1] / self.spacing
            swap = self.dims == 2 and abs(np.linalg.det(linear[:, ::-1] * np.eye(2))) > abs(np.linalg.det(linear * np.eye(2)))
            order = list(reversed(range(self.dims))) if swap else list(range(self.dims))
            target = [(world, linear[world, axis] < 0) for axis, world in enumerate(order)]
        axes = tuple(int(a) for a in np.argsort([world for world, _ in target]))
        return axes, tuple(bool(target[a][1]) for a in axes)


def stored_order(axes: Sequence[int], flips: Sequence[bool]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The order and flips that undo ``(axes, flips)`` of :meth:`Grid.canonical_order`.

    >>> stored_order((2, 0, 1), (True, False, False))
    ((1, 2, 0), (False, False, True))
    """
    back = tuple(int(a) for a in np.argsort(axes))
    return back, tuple(bool(flips[a]) for a in back)


def voxel_to_voxel(source: Grid, target: Grid, world: np.ndarray | None = None) -> np.ndarray:
    """Matrix from voxel indices of ``source`` to voxel indices of ``target``, through ``world`` (mm to mm) if given."""
    through = source.affine if world is None else world @ source.affine
    return np.linalg.solve(target.affine, through)
