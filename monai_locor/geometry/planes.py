# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Planes of 2-D images in space, and in-plane coordinates for planes other than the x-y plane of the world."""

from __future__ import annotations

import numpy as np

__all__ = ["full_affine", "plane_normal", "slice_affine", "slice_plane"]

MAX_TILT = 1e-3  # maximum slope of the axes of an x-y plane


def full_affine(affine: np.ndarray, plane: np.ndarray | None = None) -> np.ndarray:
    """The ``(4, 4)`` affine, as stored in files, of an image with up to three axes.

    Args:
        affine: ``(D + 1, D + 1)``, voxels to mm.
        plane: plane of a slice, see :func:`slice_plane`; without it, added axes have 1 mm voxels.
    """
    dims = affine.shape[0] - 1
    full = np.eye(4)
    full[:dims, :dims] = affine[:dims, :dims]
    full[:dims, 3] = affine[:dims, dims]
    return full if plane is None else plane @ full


def slice_affine(affine: np.ndarray, plane: np.ndarray | None) -> np.ndarray:
    """The ``(3, 3)`` affine of a slice in in-plane coordinates, from its ``(4, 4)`` affine in the world.

    For the x-y plane (``plane`` None) the coordinates are the world's x and y.
    """
    rows = affine[:2] if plane is None else plane[:3, :2].T @ affine[:3]
    flat = np.eye(3)
    flat[:2, :2], flat[:2, 2] = rows[:, :2], rows[:, 3]
    return flat


def slice_plane(affine: np.ndarray) -> np.ndarray | None:
    """Coordinate system of the plane of a slice.

    The axes of the plane are orthonormal and as close as possible to two world axes: A and S for a sagittal slice, R and S
    for a coronal one. They depend only on the plane and not on the voxels, so that slices in the same or parallel planes
    share coordinates, and lengths are preserved.

    Args:
        affine: ``(4, 4)``, voxels to world, mm.

    Returns:
        ``(4, 4)``, from in-plane coordinates, with voxels along the third axis, to the world; None for planes parallel to
        the x-y plane, and if the affine does not span a plane.

    >>> sagittal = np.array([[0.0, 0, 4, 3], [2, 0, 0, -32], [0, 2, 0, -30], [0, 0, 0, 1]])
    >>> slice_affine(sagittal, slice_plane(sagittal)).tolist()
    [[2.0, 0.0, -32.0], [0.0, 2.0, -30.0], [0.0, 0.0, 1.0]]
    """
    columns = affine[:3, :2]
    if not np.isfinite(affine).all() or not np.abs(columns[2]).max() > MAX_TILT * np.abs(columns[:2]).max():
        return None
    normal = np.cross(columns[:, 0], columns[:, 1])
    length = np.linalg.norm(normal)
    if not length > 1e-6 * np.linalg.norm(columns[:, 0]) * np.linalg.norm(columns[:, 1]):  # also if these overflow
        return None
    normal /= length
    away = next(k for k in (2, 1, 0) if abs(normal[k]) > np.abs(normal).max() - MAX_TILT)  # ties independent of rounding
    world = np.delete(np.eye(3), away, axis=1)
    left, _, right = np.linalg.svd(world - np.outer(normal, normal @ world), full_matrices=False)
    plane = np.eye(4)
    plane[:3, :2] = left @ right
    plane[:3, 2] = affine[:3, 2] if abs(affine[:3, 2] @ normal) > 1e-6 * np.linalg.norm(affine[:3, 2]) else normal
    plane[:3, 3] = normal * (normal @ affine[:3, 3])
    return plane


def plane_normal(plane: np.ndarray | None) -> np.ndarray:
    """Unit normal of a plane from :func:`slice_plane`, ``(3,)``; None is the x-y plane."""
    return np.array([0.0, 0.0, 1.0]) if plane is None else np.cross(plane[:3, 0], plane[:3, 1])
