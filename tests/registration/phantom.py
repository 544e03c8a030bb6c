# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Two modalities of one made-up anatomy, and short ways to register them.

Images are functions of world position, so that the same anatomy exists on any grid; the second modality is a function
of the first that is neither linear nor monotonic.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig, RegistrationResult, register
from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid
from monai_locor.metrics import target_registration_error
from monai_locor.registration import RegistrationEngine, Stage
from monai_locor.registration.start.prepare import prepare

SHORT = RegistrationConfig(
    stages=(Stage(2, 30), Stage(2, 30, spacing=8, learning_rate=0.08)), decay_start=0.3, decay_end=0.02, multistart="never"
)
GENTLE = RegistrationConfig(  # how fast it comes back must not depend on a default weight
    stages=(Stage(2, 30, spacing=8, learning_rate=0.01),), learning_rate_affine=1e-4, bending_weight=60.0
)
TINY = RegistrationConfig(stages=(Stage(2, 4), Stage(2, 4, spacing=8, learning_rate=0.16)), multistart="never")
NOTHING = RegistrationConfig(stages=(Stage(1, 0, spacing=4),))
ORDERS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def grid_of(shape=(32, 32, 32), spacing=(2.0, 2.0, 2.0), center=(0.0, 0.0, 0.0), turn: float = 0.0) -> Grid:
    """A grid around ``center``, turned about the last axis."""
    dims = len(shape)
    affine, rotation = np.eye(dims + 1), np.eye(dims)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:-1, :-1] = rotation * spacing
    affine[:-1, -1] = np.array(center) - affine[:-1, :-1] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


CUBE = grid_of()
PLANE = grid_of((48, 44), (1.5, 1.5), (0.0, 0.0))


def anatomy(world: np.ndarray) -> np.ndarray:
    """Blobs between -45 and 45 mm, values of about -1 to 1, ``(...)`` of ``(..., D)``."""
    rng, out = np.random.default_rng(5), np.zeros(world.shape[:-1])
    for _ in range(160 if world.shape[-1] == 3 else 60):
        center, width, height = rng.uniform(-45, 45, world.shape[-1]), rng.uniform(4, 9), rng.uniform(-1, 1)
        out += height * np.exp(-((world - center) ** 2).sum(-1) / (2 * width**2))
    return np.tanh(out)


def other_modality(values: np.ndarray) -> np.ndarray:
    return np.cos(3.5 * values - 0.5) + 0.3 * values


def image(values: np.ndarray, grid: Grid) -> MetaTensor:
    affine = np.eye(4)
    affine[: grid.dims, : grid.dims], affine[: grid.dims, 3] = grid.affine[:-1, :-1], grid.affine[:-1, -1]
    return MetaTensor(torch.from_numpy(values).float()[None], affine=torch.from_numpy(affine))


def small_deformation(grid: Grid, seed: int = 1) -> torch.Tensor:
    return random_diffeomorphism(grid, seed, rotation_deg=5, translation_mm=3, elastic_rms_mm=1.5, smoothing_mm=12)


def pair(fixed_grid: Grid = CUBE, moving_grid: Grid = CUBE) -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    """Fixed and moving image, and the displacement that takes the one to the other."""
    truth = small_deformation(fixed_grid)
    moved = fixed_grid.points() + truth.movedim(0, -1).double().numpy()
    return image(other_modality(anatomy(moved)), fixed_grid), image(anatomy(moving_grid.points()), moving_grid), truth


def run(fixed: torch.Tensor, moving: torch.Tensor, preset: RegistrationConfig = SHORT, **options) -> RegistrationResult:
    return register(fixed, moving, preset=preset, progress=False, **{"device": "cpu", **options})


def inner(grid: Grid, margin_mm: float = 8.0) -> torch.Tensor:
    """Voxels away from the border, where there is nothing to align to on the other side, ``(*shape)``."""
    mask = torch.zeros(grid.shape)
    mask[tuple(slice(m, n - m) for n, m in zip(grid.shape, np.ceil(margin_mm / grid.spacing).astype(int)))] = 1
    return mask


def errors(result: RegistrationResult, truth: torch.Tensor) -> tuple[float, float]:
    """Mean target registration error before and after, mm."""
    mask = inner(result.fixed_grid)
    values = [target_registration_error(u, truth, mask).mean() for u in (torch.zeros_like(truth), result.forward_mm)]
    return float(values[0]), float(values[1])


def difference(a: torch.Tensor, b: torch.Tensor, grid: Grid, quantile: float = 1.0) -> float:
    """Distance of two displacements away from the border, mm."""
    return float(target_registration_error(a, b, inner(grid)).quantile(quantile))


def offset(shift) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


def engine_of(images, config: RegistrationConfig, device="cpu", masks=(None, None), **options) -> RegistrationEngine:
    prepared = [prepare(i, m, config.quantile, torch.device(device)) for i, m in zip(images[:2], masks, strict=True)]
    return RegistrationEngine(*prepared, config, options.pop("initial", np.eye(4)), **options)
