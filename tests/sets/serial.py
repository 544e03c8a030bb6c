# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Sets of tiny images, registered one after another in this process instead of on Dask."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_locor import RegistrationConfig
from monai_locor.cohort import api as cohort_api
from monai_locor.cohort import work
from monai_locor.cohort.child import answer
from monai_locor.geometry import Grid, SpatialTransform, apply_affine
from monai_locor.io import write_image
from monai_locor.quality import Thresholds
from monai_locor.registration import Stage
from monai_locor.sets import api as sets_api

from ..phantoms import anatomy, other_modality

SHORT = RegistrationConfig(
    stages=(Stage(2, 16), Stage(2, 16, spacing=8, learning_rate=0.08)),
    decay_start=0.3,
    decay_end=0.02,
    multistart="never",
    intersubject="never",
)
LENIENT = {name: [limits[0], None] for name, limits in asdict(Thresholds()).items()}  # tiny phantoms never FAIL


class InThisProcess:
    """Answers like a child process of a worker."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def ask(self, question, limit=None):
        self.asked.append(question["words"])
        return answer(question["words"])


@pytest.fixture
def serial(monkeypatch):
    """Replace Dask; ``asked`` has the command lines."""
    child = InThisProcess()

    @contextmanager
    def connected(scheduler, workers):
        yield None

    def run_jobs(client, jobs, work, done):
        for job in jobs:
            done(job, work(job))

    monkeypatch.setattr(work, "_child", lambda owner: child)
    monkeypatch.setattr(cohort_api, "run_jobs", run_jobs)
    for module in (cohort_api, sets_api):
        monkeypatch.setattr(module, "connected", connected)
    return child


def write_phantom(path: Path, grid: Grid, mapped: SpatialTransform | None = None, other: bool = False) -> str:
    """Write the phantom at the mapped points of a grid; ``other`` is the second modality."""
    points = grid.points()
    if mapped is not None:
        points = mapped.points(points.reshape(-1, grid.dims)).reshape(points.shape)
    values = anatomy(points)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, torch.from_numpy(other_modality(values) if other else values)[None].float(), grid)
    return str(path)


def shifted(offset: np.ndarray) -> SpatialTransform:
    """A translation, mm."""
    matrix = np.eye(len(offset) + 1)
    matrix[:-1, -1] = offset
    return SpatialTransform.of_affine(matrix)


def distance(first: SpatialTransform, second: SpatialTransform, grid: Grid) -> float:
    """Mean distance of two maps in the inner half of a grid, mm."""
    inner = Grid(tuple(n // 2 for n in grid.shape), _quarter(grid))
    points = inner.points().reshape(-1, grid.dims)
    return float(np.linalg.norm(first.points(points) - second.points(points), axis=1).mean())


def _quarter(grid: Grid) -> np.ndarray:
    affine = grid.affine.copy()
    affine[:-1, -1] = apply_affine(grid.affine, np.array(grid.shape) / 4)
    return affine
