# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A pair of images of a few blobs, on oblique grids, with labels and landmarks, one affine apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_locor import InputError
from monai_locor.geometry import Grid, apply_affine

QUICK = {"stages": [{"factor": 2, "iterations": 4}], "multistart": "never"}
BLOBS = ((-12.0, 3, 8), (10, -9, -6), (2, 14, -10))
EVERYTHING = ("fixed", "moving", "fixed_weight", "moving_weight", "fixed_label", "moving_label")


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """About the axes, by these angles; a 4x4 matrix."""
    out = np.eye(4)
    for angle, (i, j) in zip((x, y, z), ((1, 2), (2, 0), (0, 1))):
        turn = np.eye(4)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        out = turn @ out
    return out


def oblique(shape, spacing, angles, center=(0, 0, 0)) -> Grid:
    affine = rotation(*angles) @ np.diag([*spacing, 1.0])
    affine[:3, 3] = np.array(center) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


FIXED = oblique((29, 22, 25), (2.1, 2.9, 2.3), (0.2, -0.15, 0.3), (1, 2, -3))
MOVING = oblique((24, 33, 21), (2.6, 2.0, 2.7), (-0.25, 0.1, -0.2), (5, -3, 1))
MATRIX = rotation(0.1, 0.05, -0.15)  # fixed to moving world points
MATRIX[:3, 3] = [4, -3, 2]


def blobs(world: np.ndarray, centers=BLOBS, width: float = 5.0) -> np.ndarray:
    return sum(np.exp(-((world - np.array(c)) ** 2).sum(-1) / (2 * width**2)) for c in centers)


def volume(values: np.ndarray, grid: Grid) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values).float()[None], affine=torch.tensor(grid.affine))


def pair(centers=BLOBS, fixed: Grid = FIXED, moving: Grid = MOVING, matrix: np.ndarray = MATRIX) -> dict:
    """One anatomy, in the moving image where the matrix takes it; labels number the blobs."""
    out: dict = {"name": "b_to_a"}
    for role, grid, points in (
        ("fixed", fixed, np.array(centers)),
        ("moving", moving, apply_affine(matrix, np.array(centers))),
    ):
        world = grid.points()
        each = np.stack([blobs(world, [c]) for c in points])
        label = np.where(each.max(0) > 0.5, each.argmax(0) + 1, 0)
        out |= {role: volume(each.sum(0), grid), f"{role}_label": volume(label, grid)}
        out[f"{role}_landmarks"] = torch.from_numpy(points)
    return out


def refusal(function, *args) -> str:
    with pytest.raises(InputError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)
