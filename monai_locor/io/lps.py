# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Conversion of signs, matrices and grid geometry between ITK's LPS and RAS. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["affine_of_itk", "flipped", "geometry_for_itk", "lps_signs"]


def lps_signs(dims: int) -> np.ndarray:
    """Signs that convert RAS to LPS and back, ``(D,)``."""
    return np.array([-1.0, -1.0, 1.0])[:dims]


def flipped(matrix: np.ndarray) -> np.ndarray:
    """Convert a homogeneous matrix from RAS to LPS, or back."""
    signs = np.append(lps_signs(len(matrix) - 1), 1.0)
    return signs[:, None] * matrix * signs


def affine_of_itk(direction: Any, spacing: Any, origin: Any) -> np.ndarray:
    """Affine from voxels to RAS mm, ``(D + 1, D + 1)``, from ITK's geometry (LPS), for the first three axes at most.

    Args:
        direction: ``(D, D)``, or its D * D elements in row-major order.
        spacing: ``(D,)``, mm.
        origin: ``(D,)``, position of voxel 0, LPS mm.
    """
    axes, dims = len(spacing), min(len(spacing), 3)
    turn = np.asarray(direction, dtype=np.float64).reshape(axes, axes)[:dims, :dims]
    spacing, origin = (np.asarray(values, dtype=np.float64)[:dims] for values in (spacing, origin))
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = lps_signs(dims)[:, None] * turn * spacing
    affine[:-1, -1] = lps_signs(dims) * origin
    return affine


def geometry_for_itk(grid: Grid) -> tuple[np.ndarray, list[float], list[float]]:
    """Direction, spacing and origin of a grid in LPS; the direction of a sheared grid is not orthogonal."""
    signs = lps_signs(grid.dims)
    direction = np.ascontiguousarray(signs[:, None] * grid.affine[:-1, :-1] / grid.spacing)
    return direction, grid.spacing.tolist(), (signs * grid.affine[:-1, -1]).tolist()
