# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Real heads with a known answer: a T1 image seen through a random diffeomorphism, and another contrast of the same head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationResult, register
from monai_locor.data import deform, random_diffeomorphism
from monai_locor.geometry import Grid, warp
from monai_locor.io import read_image
from monai_locor.metrics import target_registration_error
from monai_locor.registration import RegistrationConfig, Stage

from ..phantoms import image

# few and short steps: rounding does not grow to what is seen
CALM = RegistrationConfig(stages=(Stage(2, 4), Stage(2, 4, spacing=8, learning_rate=0.01)), multistart="never")


@dataclass(frozen=True)
class Case:
    """A pair whose true displacement on the fixed grid is known wherever ``mask`` is true, ``(*fixed)``."""

    fixed: MetaTensor
    moving: MetaTensor
    truth: torch.Tensor
    mask: torch.Tensor

    @property
    def grid(self) -> Grid:
        return Grid.of(self.fixed)

    def before(self, where: torch.Tensor | None = None) -> float:
        """Mean target registration error of doing nothing, mm."""
        return self._error(torch.zeros_like(self.truth), where)

    def after(self, result: RegistrationResult, where: torch.Tensor | None = None) -> float:
        """Mean target registration error, mm, inside ``where`` as well as the mask."""
        return self._error(result.forward_mm, where)

    def _error(self, displacement: torch.Tensor, where: torch.Tensor | None) -> float:
        points = self.mask if where is None else self.mask & where
        return float(target_registration_error(displacement, self.truth, points).mean())


def run(fixed: torch.Tensor | Path, moving: torch.Tensor | Path, preset="fast", **options) -> RegistrationResult:
    return register(fixed, moving, preset=preset, device="cpu", progress=False, **options)


def known(t1: MetaTensor, other: MetaTensor, mask: torch.Tensor) -> Case:
    """Fixed: ``t1`` moved, a few degrees, millimeters and an elastic part. Moving: ``other``."""
    grid = Grid.of(t1)
    truth = random_diffeomorphism(grid, 1, rotation_deg=8, translation_mm=6, elastic_rms_mm=2.5, smoothing_mm=15)
    moved = deform(image(mask, grid), truth, mode="nearest")
    return Case(deform(t1, truth), other, truth, moved.as_tensor()[0] > 0)


@cache
def template(spacing_mm: float) -> Case:
    """The MNI152 template and its T2-like partner."""
    pytest.importorskip("nilearn")
    from monai_locor.data.demo import mni152_pair

    return known(*mni152_pair(spacing_mm))


def average_head(shared: Path, spacing_mm: float) -> Case:
    """T1 and T2 averages of whole heads, skin and skull included; points with signal count."""
    paths = [shared / "data" / f"avg152{contrast}_2mm.nii.gz" for contrast in ("T1", "T2")]
    if not all(path.is_file() for path in paths):
        pytest.skip("no average heads in the shared data")
    images = [coarser(read_image(path)[0], spacing_mm) for path in paths]
    return known(*images, (images[0] > 0.2 * images[0].max()).float())


def coarser(source: MetaTensor, spacing_mm: float) -> MetaTensor:
    """Averages of two by two by two voxels, read ``spacing_mm`` apart."""
    grid = Grid.of(source)
    mean = torch.nn.functional.avg_pool3d(source.as_tensor()[None], 2, stride=1)[0]
    affine = grid.affine.copy()
    affine[:3, 3] = grid.affine[:3] @ [0.5, 0.5, 0.5, 1]
    pooled = Grid(tuple(mean.shape[1:]), affine)
    target = pooled.resampled([spacing_mm] * 3)
    return image(warp(mean, pooled, None, target), target)


def placed(source: MetaTensor, world: np.ndarray) -> MetaTensor:
    """The same voxels elsewhere: ``world``, ``(D + 1, D + 1)``, takes the old world points to the new ones."""
    grid = Grid.of(source)
    return image(source.as_tensor(), Grid(grid.shape, world @ grid.affine))


def rotation(*vector: float) -> np.ndarray:
    """``(4, 4)`` of a rotation vector, radians."""
    x, y, z = vector
    matrix = np.eye(4)
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    matrix[:3, :3] = torch.linalg.matrix_exp(skew).numpy()
    return matrix


def ball(grid: Grid, center: tuple[float, ...], radius: float) -> torch.Tensor:
    """Voxels within ``radius`` mm of a world point, ``(*grid)`` bool."""
    return torch.from_numpy(np.linalg.norm(grid.points() - np.array(center), axis=-1) < radius)
