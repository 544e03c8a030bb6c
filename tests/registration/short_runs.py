# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Short registrations of the phantoms, and how far their results are from the truth."""

from __future__ import annotations

import numpy as np
import torch

from monai_locor import RegistrationConfig, RegistrationResult, register
from monai_locor.geometry import Grid
from monai_locor.metrics import target_registration_error
from monai_locor.registration import RegistrationEngine, Stage, Start
from monai_locor.registration.start.prepare import prepare

SHORT = RegistrationConfig(
    stages=(Stage(2, 30), Stage(2, 30, spacing=8, learning_rate=0.08)), decay_start=0.3, decay_end=0.02, multistart="never"
)
GENTLE = RegistrationConfig(  # how fast it comes back must not depend on a default weight
    stages=(Stage(2, 30, spacing=8, learning_rate=0.01),), learning_rate_affine=1e-4, bending_weight=60.0
)
TINY = RegistrationConfig(stages=(Stage(2, 4), Stage(2, 4, spacing=8, learning_rate=0.16)), multistart="never")
NOTHING = RegistrationConfig(stages=(Stage(1, 0, spacing=4),), multistart="never")


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


def engine_of(
    images, config: RegistrationConfig, device="cpu", masks=(None, None), initial=None, **options
) -> RegistrationEngine:
    """An engine at its start; ``options`` are fields of `Start`."""
    prepared = [prepare(i, m, config.quantile, torch.device(device)) for i, m in zip(images[:2], masks, strict=True)]
    affine = np.eye(prepared[0].grid.dims + 1) if initial is None else initial
    return RegistrationEngine(Start(tuple(prepared), affine, **options), config)
