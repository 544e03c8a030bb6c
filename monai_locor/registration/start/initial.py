# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Computation and checks of initial affines."""

from __future__ import annotations

import logging

import numpy as np
import torch

from ...errors import InputError
from ...geometry import Grid, apply_affine
from ...run_log import doubt
from .prepare import PreparedImage

__all__ = ["check_kind", "check_overlap", "initial_affine", "overlap", "split_displacement"]

logger = logging.getLogger(__name__)

MIN_WORLD_OVERLAP = 0.25  # fraction of the smaller field of view, below which world coordinates are considered unrelated
MAX_SIZE_RATIO = 1e4  # of the two fields of view
MIN_OVERLAP = 0.10  # fraction of the smaller field of view
LENGTH_TOLERANCE = 1e-3  # relative; matrices may be written with few digits
AFFINE_TOLERANCE = 0.05  # voxels; maximum difference between an affine field and its matrix


def overlap(fixed: Grid, moving: Grid, affine: np.ndarray) -> float:
    """Return the overlap of two fields of view under ``affine`` (fixed to moving points), as a fraction of the smaller one."""
    step = np.maximum(1, np.array(fixed.shape) // 24)
    axes = [np.arange(0, n, s, dtype=np.float64) for n, s in zip(fixed.shape, step, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, fixed.dims)
    voxels = apply_affine(np.linalg.inv(moving.affine) @ affine @ fixed.affine, index)
    shared = ((voxels >= -0.5) & (voxels <= np.array(moving.shape) - 0.5)).all(1).mean()
    volumes = [float(np.prod(g.extent)) for g in (fixed, moving)]
    return float(shared * volumes[0] / min(volumes))


def initial_affine(fixed: PreparedImage, moving: PreparedImage, how: str) -> np.ndarray:
    """Return the initial affine, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.

    Args:
        how: ``"world"`` uses the world coordinates; ``"centers"`` aligns the centers of the fields of view, ``"moments"`` the
            centers of mass; ``"auto"`` uses the world coordinates if the overlap is at least a quarter of the smaller field
            of view, otherwise the centers.

    Raises:
        InputError: if the overlap of the images is too small.
    """
    shared = overlap(fixed.grid, moving.grid, np.eye(fixed.grid.dims + 1))
    if how == "auto":
        how = "world" if shared >= MIN_WORLD_OVERLAP else "centers"
        level = logging.INFO if how == "world" else logging.WARNING
        logger.log(level, "fields of view share %.0f %% of the smaller one: starting from %s", 100 * shared, how)
    matrix = np.eye(fixed.grid.dims + 1)
    if how == "centers":
        matrix[:-1, -1] = moving.grid.center - fixed.grid.center
    elif how == "moments":
        matrix[:-1, -1] = _center_of_mass(moving) - _center_of_mass(fixed)
    return matrix


def check_overlap(fixed: Grid, moving: Grid, affine: np.ndarray) -> None:
    """Check that the fields of view overlap sufficiently.

    Raises:
        InputError: if the overlap is less than a tenth of the smaller field of view, or if one is ten thousand times as wide
            as the other.
    """
    sizes = [float(np.exp(np.log(grid.extent).mean())) for grid in (fixed, moving)]
    if max(sizes) > MAX_SIZE_RATIO * min(sizes):
        raise InputError(
            f"the fields of view of fixed and moving image are {sizes[0]:.3g} and {sizes[1]:.3g} mm wide; check the units of "
            "length in their headers."
        )
    shared = overlap(fixed, moving, affine)
    if shared < MIN_OVERLAP:
        raise InputError(
            f"the fields of view of fixed and moving image share only {100 * shared:.0f} % of the smaller one; "
            'start from their centers with initialization "centers" or "moments", or give an initial affine.'
        )


def check_kind(
    transform: str, affine: np.ndarray, displacement_mm: torch.Tensor | None, grid: Grid, velocity: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Check an initial transform against the setting ``transform``.

    An affine of another type, or with a reflection, is kept with a warning.

    Args:
        transform: see :class:`monai_locor.registration.RegistrationConfig`.
        affine: ``(D + 1, D + 1)``, fixed to moving world points.
        displacement_mm: the remaining initial displacement, ``(D, *grid)`` RAS mm, or None.
        grid: fixed grid.
        velocity: initial velocity, or None.

    Returns:
        the displacement; None for transforms without a deformation.

    Raises:
        InputError: if a deformation is given for a transform without one.
    """
    if np.linalg.det(affine[:-1, :-1]) < 0:
        doubt(
            logger, "the initial transform mirrors, and so does the result: unless the images do, left and right are exchanged"
        )
    if transform == "deformable":
        return displacement_mm
    most = 0.0 if displacement_mm is None else float(displacement_mm.abs().max()) / float(grid.spacing.min())
    if velocity is not None or most > AFFINE_TOLERANCE:
        what = "velocity" if velocity is not None else f"transform deforms by up to {most:.2g} voxels and"
        raise InputError(f'the initial {what} requires transform "deformable", got "{transform}"; give a matrix.')
    lengths = np.linalg.svd(affine[:-1, :-1], compute_uv=False)
    scale = 1.0 if transform == "rigid" else float(lengths.mean())
    if transform != "affine" and np.abs(lengths / scale - 1).max() > LENGTH_TOLERANCE:
        change = f"changes lengths by factors from {lengths[-1]:.3f} to {lengths[0]:.3f}"
        logger.warning('the initial transform %s, and so does the result, although its kind is "%s"', change, transform)
    return None


def split_displacement(displacement_mm: torch.Tensor, grid: Grid) -> tuple[np.ndarray, torch.Tensor]:
    """Split off the least-squares affine A of a transform: ``x + u(x) = A (x + w(x))``.

    Args:
        displacement_mm: ``u``, ``(D, *grid.shape)``, RAS mm.

    Returns:
        ``A``, ``(D + 1, D + 1)`` RAS mm; ``w``, ``(D, *grid.shape)``, RAS mm, float64.
    """
    points = torch.from_numpy(grid.points()).reshape(-1, grid.dims)
    homogeneous = torch.cat((points - torch.from_numpy(grid.center), torch.ones_like(points[:, :1])), 1)
    moved = points + displacement_mm.detach().cpu().double().reshape(grid.dims, -1).T
    solution = torch.linalg.lstsq(homogeneous, moved).solution.T.numpy()
    matrix = np.eye(grid.dims + 1)
    matrix[:-1, :-1] = solution[:, :-1]
    matrix[:-1, -1] = solution[:, -1] - solution[:, :-1] @ grid.center
    rest = torch.from_numpy(apply_affine(np.linalg.inv(matrix), moved.numpy())) - points
    return matrix, rest.T.reshape(grid.dims, *grid.shape)


def _center_of_mass(image: PreparedImage) -> np.ndarray:
    values = image.image[0].double().clamp(0, 1)
    if image.weight is not None:
        values = values * image.weight[0]
    total = values.sum().clamp_min(1e-12)
    index = []
    for axis, n in enumerate(values.shape):
        profile = values.sum([a for a in range(values.ndim) if a != axis])
        index.append(float((profile * torch.arange(n, dtype=torch.float64, device=profile.device)).sum() / total))
    return apply_affine(image.grid.affine, np.array(index))
