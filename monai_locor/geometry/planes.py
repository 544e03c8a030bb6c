# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Slices in space: the plane of a 2-D image, and its own coordinates where that is not the x-y plane of the world."""

from __future__ import annotations

import numpy as np

__all__ = ["full_affine", "plane_normal", "slice_affine", "slice_plane"]

MAX_TILT = 1e-3  # a plane is x-y when its axes rise by less, relative to their length


def full_affine(affine: np.ndarray, plane: np.ndarray | None = None) -> np.ndarray:
    """The ``(4, 4)`` affine that files carry, of an image with up to three axes.

    Args:
        affine: ``(D + 1, D + 1)``, voxels to mm.
        plane: of a slice, see :func:`slice_plane`; without it, added axes have voxels of 1 mm.
    """
    dims = affine.shape[0] - 1
    full = np.eye(4)
    full[:dims, :dims] = affine[:dims, :dims]
    full[:dims, 3] = affine[:dims, dims]
    return full if plane is None else plane @ full


def slice_affine(affine: np.ndarray, plane: np.ndarray | None) -> np.ndarray:
    """The ``(3, 3)`` affine of a slice in its own coordinates, from its ``(4, 4)`` affine in the world.

    In the x-y plane these are the world's x and y; any other plane gives its own.
    """
    rows = affine[:2] if plane is None else plane[:3, :2].T @ affine[:3]
    flat = np.eye(3)
    flat[:2, :2], flat[:2, 2] = rows[:, :2], rows[:, 3]
    return flat


def slice_plane(affine: np.ndarray) -> np.ndarray | None:
    """Where the plane of a slice lies in the world.

    The axes of the plane are orthonormal and as near to two world axes as they can be: A and S in a sagittal slice, R and S
    in a coronal one. They depend on the plane alone and not on the voxels, so that slices of one plane, and of planes
    parallel to it, share coordinates, and lengths are true.

    Args:
        affine: ``(4, 4)``, voxels to world, mm.

    Returns:
        ``(4, 4)``, from coordinates in the plane, with voxels along its third axis, to the world; None for a plane that
        contains the world's x and y axes, and where the affine does not span a plane.

    >>> sagittal = np.array([[0.0, 0, 4, 3], [2, 0, 0, -32], [0, 2, 0, -30], [0, 0, 0, 1]])
    >>> slice_affine(sagittal, slice_plane(sagittal)).tolist()
    [[2.0, 0.0, -32.0], [0.0, 2.0, -30.0], [0.0, 0.0, 1.0]]
    """
    columns = affine[:3, :2]
    if not np.isfinite(affine).all() or not np.abs(columns[2]).max() > MAX_TILT * np.abs(columns[:2]).max():
        return None
    normal = np.cross(columns[:, 0], columns[:, 1])
    length = np.linalg.norm(normal)
    if length < 1e-6 * np.linalg.norm(columns[:, 0]) * np.linalg.norm(columns[:, 1]):
        return None
    normal /= length
    away = next(k for k in (2, 1, 0) if abs(normal[k]) > np.abs(normal).max() - MAX_TILT)  # halfway, rounding must not decide
    world = np.delete(np.eye(3), away, axis=1)
    left, _, right = np.linalg.svd(world - np.outer(normal, normal @ world), full_matrices=False)
    plane = np.eye(4)
    plane[:3, :2] = left @ right
    plane[:3, 2] = affine[:3, 2] if abs(affine[:3, 2] @ normal) > 1e-6 * np.linalg.norm(affine[:3, 2]) else normal
    plane[:3, 3] = normal * (normal @ affine[:3, 3])
    return plane


def plane_normal(plane: np.ndarray | None) -> np.ndarray:
    """Unit normal of a plane as :func:`slice_plane` gives it, ``(3,)``; None is the x-y plane."""
    return np.array([0.0, 0.0, 1.0]) if plane is None else np.cross(plane[:3, 0], plane[:3, 1])
