# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pairs of aligned images, and disturbances of known size for `capture.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.spatial.transform import Rotation

from monai_locor.geometry import Grid, affine_about, apply_affine

VOXEL_MM = 4.0  # the images are averaged to about this size
PAIRS = {
    "T2-T1": ("openms_patient07_T2.nii.gz", "openms_patient07_T1.nii.gz"),
    "CT-T1": ("head_CT.nii.gz", "head_T1.nii.gz"),
    "PET-T1": ("avg_PET_2mm.nii.gz", "avg152T1_2mm.nii.gz"),
    "histology": ("histology/He.jpg", "histology/CD31.jpg"),
}
SECTION_PIXELS = 4  # side of the blocks of pixels that are averaged
LANDMARK_SCALE = 10  # landmarks are stored in tenths of a pixel


@dataclass(frozen=True, eq=False)
class Case:
    """Two images and points that correspond.

    Attributes:
        fixed, moving: images, ``(1, *spatial)``.
        points: points of the fixed image, ``(N, D)``, mm (2-D: pixels).
        truth: the corresponding points of the moving image, likewise.
    """

    fixed: MetaTensor
    moving: MetaTensor
    points: np.ndarray
    truth: np.ndarray


def case_of(folder: Path, name: str) -> Case:
    """Read a pair of :data:`PAIRS`."""
    paths = [folder / part for part in PAIRS[name]]
    if name == "histology":
        points = [_landmarks(path) for path in paths]
        return Case(*(_section(path) for path in paths), *points)
    fixed, moving = (volume(path) for path in paths)
    grid = Grid.of(fixed)
    bright = fixed[0].numpy() > 0.2 * np.quantile(fixed[0].numpy(), 0.99)
    points = grid.points()[bright]
    points = points[:: max(1, len(points) // 2000)]
    return Case(fixed, moving, points, points)


def volume(path: Path) -> MetaTensor:
    """An image averaged to voxels of about :data:`VOXEL_MM`."""
    image = nib.load(path)
    values = np.array(image.dataobj, dtype=np.float32).reshape(image.shape[:3])
    return _averaged(values, image.affine, [max(1, round(VOXEL_MM / s)) for s in image.header.get_zooms()[:3]])


def _section(path: Path) -> MetaTensor:
    """The optical density of a histological section, pixel coordinates as world coordinates."""
    from matplotlib.image import imread

    color = np.asarray(imread(path), dtype=np.float32)[..., :3]
    density = -np.log10((color + 1) / 256).mean(-1).T
    return _averaged(density, np.eye(3), [SECTION_PIXELS] * 2)


def _averaged(values: np.ndarray, affine: np.ndarray, size: list[int]) -> MetaTensor:
    dims = values.ndim
    pool = torch.nn.functional.avg_pool3d if dims == 3 else torch.nn.functional.avg_pool2d
    small = pool(torch.from_numpy(np.ascontiguousarray(values))[None], size)
    coarse = affine @ np.diag([*size, 1.0])
    coarse[:-1, -1] = apply_affine(affine, (np.array(size) - 1) / 2)
    return MetaTensor(small, affine=torch.from_numpy(coarse))


def _landmarks(path: Path) -> np.ndarray:
    rows = np.genfromtxt(path.with_name(f"{path.stem}_landmarks.csv"), delimiter=",", skip_header=1)
    return rows[:, 1:] / LANDMARK_SCALE


def turn(degrees: float, axis: np.ndarray) -> np.ndarray:
    """Rotation matrix, ``(3, 3)``; the axis, ``(3,)``, may have any length."""
    return Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()


def disturbed(case: Case, condition: Mapping[str, Any]) -> Case:
    """Move, scale, mirror and crop the moving image.

    Args:
        case: aligned images.
        condition: ``rotation`` in degrees, ``translation`` as a share of the extent, ``scale``, ``view`` as a share of the
            extent along one axis, ``mirror``, the number of an axis or None, and ``seed`` for axis, direction and place.
    """
    rng = np.random.default_rng(condition["seed"])
    grid = Grid.of(case.moving)
    dims = grid.dims
    axis, way = rng.normal(size=3), rng.normal(size=dims)
    where, along = rng.uniform(0.3, 0.7), int(rng.integers(dims))
    if dims == 2:
        axis = np.array([0, 0, 1.0])
    linear = condition["scale"] * turn(condition["rotation"], axis)[:dims, :dims]
    if condition["mirror"] is not None:
        linear = linear @ np.diag([-1.0 if k == condition["mirror"] else 1.0 for k in range(dims)])
    shift = condition["translation"] * grid.extent * way / np.abs(way).max()
    matrix = affine_about(grid.center, linear)
    matrix[:-1, -1] += shift
    values, box = case.moving, [slice(None)] * dims
    if condition["view"] < 1:
        size = max(4, round(grid.shape[along] * condition["view"]))
        first = round((grid.shape[along] - size) * where)
        box[along] = slice(first, first + size)
        grid = grid.cropped(tuple(slice(*b.indices(n)) for b, n in zip(box, grid.shape, strict=True)))
    part = values.as_tensor()[(slice(None), *box)].clone()
    moved = MetaTensor(part, affine=torch.from_numpy(matrix @ grid.affine))
    return Case(case.fixed, moved, case.points, apply_affine(matrix, case.truth))
