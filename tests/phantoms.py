# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Test images with a known answer: two modalities of one synthetic anatomy, on any grid.

Images are functions of world position; the second modality is a function of the first that is neither linear nor monotonic.
"""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid

#: every way to store a volume: the order of its axes, and which are flipped
ORDERS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def grid_of(shape=(32, 32, 32), spacing=(2.0, 2.0, 2.0), center=(0.0, 0.0, 0.0), turn: float = 0.0) -> Grid:
    """A grid around ``center``, turned about the last axis by ``turn`` radians; negative spacing flips an axis."""
    dims = len(shape)
    affine, rotation = np.eye(dims + 1), np.eye(dims)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:-1, :-1] = rotation * spacing
    affine[:-1, -1] = np.array(center)[:dims] - affine[:-1, :-1] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def turned(angle: float, spacing: tuple[float, ...], shape: tuple[int, ...], center: float = 5.0) -> Grid:
    """An oblique grid, turned by ``angle`` radians about every axis; negative spacing flips an axis."""
    dims = len(shape)
    linear = np.eye(dims)
    for i, j in combinations(range(dims), 2):
        turn = np.eye(dims)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        linear = linear @ turn
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = linear @ np.diag(spacing)
    affine[:-1, -1] = np.array([center, -2.0, 2 * center])[:dims] - affine[:-1, :-1] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


CUBE = grid_of()
PLANE = grid_of((48, 44), (1.5, 1.5))


def image(values: np.ndarray | torch.Tensor, grid: Grid, **meta) -> MetaTensor:
    """A float32 image of ``(*grid)`` or ``(C, *grid)`` values, with the affine of the grid and these entries of metadata."""
    tensor = torch.as_tensor(values).as_subclass(torch.Tensor).float()
    tensor = tensor[None] if tensor.ndim == grid.dims else tensor
    return MetaTensor(tensor, affine=torch.from_numpy(grid.full_affine), meta=meta or None)


def anatomy(world: np.ndarray) -> np.ndarray:
    """Blobs between -45 and 45 mm, values of about -1 to 1, ``(...)`` of ``(..., D)``."""
    rng, out = np.random.default_rng(5), np.zeros(world.shape[:-1])
    coordinates = [np.ascontiguousarray(world[..., k]) for k in range(world.shape[-1])]  # faster than sums over a short axis
    for _ in range(160 if world.shape[-1] == 3 else 60):
        center, width, height = rng.uniform(-45, 45, world.shape[-1]), rng.uniform(4, 9), rng.uniform(-1, 1)
        distance = sum((x - c) ** 2 for x, c in zip(coordinates, center, strict=True))
        out += height * np.exp(-distance / (2 * width**2))
    return np.tanh(out)


def other_modality(values: np.ndarray) -> np.ndarray:
    return np.cos(3.5 * values - 0.5) + 0.3 * values


def small_deformation(grid: Grid, seed: int = 1) -> torch.Tensor:
    """A random displacement, ``(D, *grid)``, mm: 5 degrees, 3 mm and an elastic part of 1.5 mm."""
    return random_diffeomorphism(grid, seed, rotation_deg=5, translation_mm=3, elastic_rms_mm=1.5, smoothing_mm=12)


def pair(fixed_grid: Grid = CUBE, moving_grid: Grid = CUBE) -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    """Fixed and moving image, and the true displacement from fixed to moving points, ``(D, *fixed_grid)``, mm."""
    truth = small_deformation(fixed_grid)
    moved = fixed_grid.points() + truth.movedim(0, -1).double().numpy()
    return image(other_modality(anatomy(moved)), fixed_grid), image(anatomy(moving_grid.points()), moving_grid), truth
