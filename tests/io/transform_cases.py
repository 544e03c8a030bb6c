# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Grids that are oblique, flipped and anisotropic, a transform between them, and images that show where points land."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform
from monai_locor.io import write_image

from ..phantoms import turned

LIMIT = 0.01  # voxels, mean


#: fixed and moving grids: the moving one holds all that the fixed one is mapped to
GRIDS = {
    "right-handed": (turned(0.3, (1.2, 1.5, 3.0), (14, 12, 8)), turned(-0.2, (1.8, 2.1, 2.3), (40, 36, 38))),
    "left-handed": (turned(-0.4, (1.2, -1.5, 3.0), (14, 12, 8)), turned(0.1, (-1.8, 2.1, 2.3), (40, 36, 38))),
    "mixed": (turned(0.2, (-1.0, 1.5, 2.5), (13, 12, 9)), turned(0.5, (1.8, 2.0, 2.2), (42, 38, 38))),
    "flat": (turned(0.4, (1.0, -1.5), (22, 20)), turned(-0.2, (-1.8, 1.1), (50, 70))),
}
SOLID = [name for name in GRIDS if name != "flat"]


def some_affine(dims: int) -> np.ndarray:
    """Turned, sheared, scaled and moved, ``(D + 1, D + 1)``."""
    matrix = np.eye(dims + 1)
    matrix[:dims, :dims] += np.array([[0.05, -0.12, 0.04], [0.1, -0.06, -0.05], [0.02, 0.07, 0.08]])[:dims, :dims]
    matrix[:dims, -1] = np.array([2.5, -1.5, 3.0])[:dims]
    return matrix


def smooth_field(grid: Grid, size: float = 2.0) -> torch.Tensor:
    """``(D, *shape)``, RAS mm, a different function in each component, without folds."""
    world = grid.points() - grid.center
    waves = [np.sin(world @ np.roll([0.1, 0.06, 0.08][: grid.dims], k) + 2 * k) for k in range(grid.dims)]
    return torch.from_numpy(size * np.stack(waves)).float()


def some_transform(fixed: Grid) -> SpatialTransform:
    """A field on the fixed grid, then an affine map."""
    return SpatialTransform((FieldStep(smooth_field(fixed), fixed), AffineStep(some_affine(fixed.dims))))


def inner_points(grid: Grid, count: int = 40) -> np.ndarray:
    """Random world points within a grid, away from its border, ``(N, D)``."""
    index = np.random.default_rng(0).uniform(1.2, np.array(grid.shape) - 2.2, (count, grid.dims))
    return index @ grid.affine[:-1, :-1].T + grid.affine[:-1, -1]


def write_coordinates(folder: Path, grid: Grid, stem: str = "moving") -> list[Path]:
    """One image for each world coordinate: resampled, it tells where its points came from. Linear, so nothing is lost."""
    paths = []
    for axis, name in enumerate("xyz"[: grid.dims]):
        paths.append(folder / f"{stem}_{name}.nii.gz")
        write_image(paths[-1], torch.from_numpy(grid.points()[..., axis].astype(np.float32)), grid)
    return paths


def difference(found: np.ndarray, transform: SpatialTransform, fixed: Grid, moving: Grid) -> float:
    """Mean distance, in the smallest voxel size of the moving grid, of found points ``(*fixed, D)`` from ours."""
    ours = fixed.points() + np.moveaxis(transform.displacement(fixed).double().numpy(), 0, -1)
    index = (ours - moving.affine[:-1, -1]) @ np.linalg.inv(moving.affine[:-1, :-1]).T
    seen = ((index > 0) & (index < np.array(moving.shape) - 1)).all(-1)
    assert seen.mean() > 0.9, "the moving image is too small for this test"
    assert np.linalg.norm(ours - fixed.points(), axis=-1).mean() > 1
    return float(np.linalg.norm(found - ours, axis=-1)[seen].mean() / moving.spacing.min())
