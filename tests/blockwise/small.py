# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Small images and plans of blockwise registrations, without Dask."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_locor import RegistrationConfig
from monai_locor.blockwise import api
from monai_locor.blockwise.images import BlockImage
from monai_locor.blockwise.state import BlockState, Plan, Side
from monai_locor.blockwise.tiling import Tiling
from monai_locor.geometry import Grid
from monai_locor.io.nifti import save_nifti
from monai_locor.registration import Stage
from tests.phantoms import anatomy, grid_of, other_modality, small_deformation

MICROMETERS = 1e-3  # mm
SHORT = RegistrationConfig(
    stages=(Stage(2, 8, learning_rate=0.03), Stage(1, 8, spacing=4, learning_rate=0.16)), decay_end=0.02, multistart="never"
)


def in_this_process(monkeypatch, work=None) -> None:
    """Run the jobs one after the other instead of on Dask."""

    def run_jobs(client, jobs, function, done) -> None:
        for job in jobs:
            done(job, (work or (lambda f, j: f(j)))(function, job))

    monkeypatch.setattr(api, "connected", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(api, "run_jobs", run_jobs)


def interrupt(monkeypatch, arguments, after: int) -> None:
    """Start a registration that is interrupted after this number of jobs."""
    done = []

    def until_interrupted(function, job):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(job)
        return function(job)

    in_this_process(monkeypatch, until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.register_blockwise(**arguments)


def write_pair(folder: Path, shape=(48, 44, 40), spacing=2.0) -> tuple[Grid, torch.Tensor]:
    """Write ``fixed.nii`` and ``moving.nii`` of the phantom; return their grid and the true displacement."""
    grid = grid_of(shape, (-spacing, -spacing, spacing))
    truth = small_deformation(grid)
    points = grid.points()
    save_nifti(folder / "fixed.nii", other_modality(anatomy(points + truth.movedim(0, -1).numpy())).astype(np.float32), grid)
    save_nifti(folder / "moving.nii", anatomy(points).astype(np.float32), grid)
    return grid, truth


def state_of(folder: Path, grid: Grid, tiling: Tiling, affine: np.ndarray, velocity: torch.Tensor, step: float) -> BlockState:
    """A state with a given coarse velocity ``(D, *lattice)``, mm, on the lattice of the whole grid, and no finished tile."""
    values = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    save_nifti(folder / "image.nii", values, grid)
    image = BlockImage(folder / "image.nii", "image")
    side = Side(str(folder / "image.nii"), None, image.signature(), float(values.min()), float(values.max()), 0.0)
    config = RegistrationConfig(stages=(Stage(1, 1, spacing=4),), affine=False)
    plan = Plan(side, side, config, affine, 1.0, 1.0, tiling, step, 0)
    state = BlockState(folder / "state")
    state.folder.mkdir()
    api.write_json(state.plan_path, plan.to_json())
    forward = np.zeros((grid.dims, *grid.shape), np.float32)
    arrays = {"velocity": velocity.numpy(), "lattice": state.lattice.affine, "forward": forward, "forward_affine": grid.affine}
    np.savez(state.folder / "coarse.npz", **arrays)
    return state
