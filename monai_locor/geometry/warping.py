# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Resampling of images through a displacement in mm, from any grid to any other."""

from __future__ import annotations

import numpy as np
import torch

from ..precision import guarded
from ..tensors import as_tensor, on_device
from .grid import Grid, voxel_to_voxel
from .interpolation import SMOOTH_MODES, sample_labels, sample_smooth, spline_coefficients
from .partition import grid_slabs
from .sampling import sample

__all__ = ["EXACT_MODES", "MODES", "from_voxels", "inside", "mapped_points", "to_voxels", "warp"]

EXACT_MODES = ("nearest", "smooth")  # modes without interpolated values
MODES = ("bilinear", *EXACT_MODES, *SMOOTH_MODES)


@guarded
def to_voxels(displacement_mm: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Convert a displacement from mm to voxels along the array axes of a grid.

    Args:
        displacement_mm: ``(D, *any)``, RAS mm.

    Returns:
        ``(D, *any)`` in voxels of ``grid``, with the dtype and device of the input.
    """
    matrix = np.linalg.inv(grid.affine[: grid.dims, : grid.dims])
    return torch.tensordot(on_device(matrix, displacement_mm), displacement_mm, dims=1)


@guarded
def from_voxels(displacement: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Inverse of :func:`to_voxels`: convert ``(D, *any)`` from voxels of ``grid`` to RAS mm."""
    return torch.tensordot(on_device(grid.affine[: grid.dims, : grid.dims], displacement), displacement, dims=1)


@guarded
def mapped_points(
    grid: Grid, image_grid: Grid, displacement_mm: torch.Tensor | None = None, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Positions ``x + u(x)`` of the voxels ``x`` of ``grid``, in voxels of ``image_grid``.

    Args:
        displacement_mm: ``u``, ``(D, *grid.shape)``, RAS mm; zero if not given.
        device: device of the result if no displacement is given.

    Returns:
        ``(D, *grid.shape)``, float64: in float32 the affine part alone would have errors of 1e-5 voxels on large grids.

    Raises:
        ValueError: if the displacement does not have the shape of ``grid`` or the grids differ in dimension.
    """
    if grid.dims != image_grid.dims:
        raise ValueError(f"the grids must have the same number of dimensions, got {grid.shape} and {image_grid.shape}")
    if displacement_mm is not None:
        _check_shape(displacement_mm, grid)
        device = displacement_mm.device
    dims = grid.dims
    matrix = voxel_to_voxel(grid, image_grid)
    points = torch.zeros((), dtype=torch.float64, device=device)
    for axis, n in enumerate(grid.shape):  # the products with the indices along one axis are constant along the others
        steps = matrix[:dims, axis, None] * np.arange(n) + (matrix[:dims, dims:] if axis == 0 else 0)
        points = points + on_device(steps, points).reshape(dims, *[n if a == axis else 1 for a in range(dims)])
    return points if displacement_mm is None else points.add_(to_voxels(displacement_mm.double(), image_grid))


def _check_shape(displacement_mm: torch.Tensor, grid: Grid) -> None:
    if tuple(displacement_mm.shape) != (grid.dims, *grid.shape):
        raise ValueError(f"the displacement must be {(grid.dims, *grid.shape)}, got {tuple(displacement_mm.shape)}")


def inside(points: torch.Tensor, shape: tuple[int, ...], margin: float = 0.0) -> torch.Tensor:
    """Mask of the positions between the outermost voxel centers of an image.

    Args:
        points: ``(D, *any)``, voxels of the image.
        shape: shape of the image; on an axis of one voxel, positions up to half a voxel away are inside.
        margin: minimum distance from the outermost centers, voxels; the test is inclusive up to 1e-6 voxels.

    Returns:
        ``(*any)``, bool.
    """
    half = on_device([max((n - 1) / 2 - margin, 0.5 if n == 1 else 0.0) for n in shape], points)
    middle = on_device([(n - 1) / 2 for n in shape], points)
    column = (-1, *[1] * (points.ndim - 1))
    return ((points - middle.reshape(column)).abs() <= half.reshape(column) + 1e-6).all(0)


@guarded
def warp(
    image: torch.Tensor,
    image_grid: Grid,
    displacement_mm: torch.Tensor | None,
    grid: Grid,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Sample an image at the displaced voxels of a grid: ``out(x) = image(x + u(x))``.

    The image is interpolated only once, on its original grid.

    Args:
        image: ``(C, *image_grid.shape)``, D = 2 or 3 spatial axes.
        displacement_mm: ``u``, ``(D, *grid.shape)``, RAS mm; ``None`` only resamples.
        mode: ``"bilinear"`` (linear along each axis); ``"nearest"``; ``"bspline"``, an interpolating cubic B-spline;
            ``"lanczos"``, a windowed sinc of six voxels along each axis; or ``"smooth"``, for label maps, see
            :func:`monai_locor.geometry.interpolation.sample_labels`.
        padding_mode: values outside the image, ``"zeros"`` or ``"border"``, for the first two modes; zero for the others.

    Returns:
        ``(C, *grid.shape)``; ``"nearest"`` and ``"smooth"`` keep the dtype and values of the image, the other modes return
        float64 for a float64 image, else float32.

    Raises:
        ValueError: if the image or the displacement does not fit its grid, or the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if tuple(image.shape[1:]) != image_grid.shape:
        raise ValueError(f"the image must be (C, {', '.join(map(str, image_grid.shape))}), got {tuple(image.shape)}")
    values = as_tensor(image)  # a MetaTensor would keep its old affine
    if mode not in EXACT_MODES and values.dtype != torch.float64:
        values = values.float()
    if displacement_mm is not None:
        _check_shape(displacement_mm, grid)
        values = values.to(displacement_mm.device)
    if mode == "bspline":
        values = spline_coefficients(values)
    parts = []
    for rows, part in grid_slabs(grid, values.device):
        shift = None if displacement_mm is None else displacement_mm[:, rows]
        points = mapped_points(part, image_grid, shift, values.device)
        points = points if mode in EXACT_MODES else points.to(values)
        parts.append(_read(values, points, mode, padding_mode))
    return torch.cat(parts, 1)


def _read(values: torch.Tensor, points: torch.Tensor, mode: str, padding_mode: str) -> torch.Tensor:
    """Sample ``(C, *spatial)`` at ``(D, *out)``."""
    if mode == "smooth":
        return sample_labels(values, points)
    if mode in SMOOTH_MODES:
        return sample_smooth(values, points, mode)
    return sample(values[None], points[None], mode, padding_mode)[0]
