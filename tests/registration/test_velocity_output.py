# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The stationary velocity of a result: its exponential and the affine are the transform."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.blocks import DVF2DDF

from monai_locor import InputError, RegistrationConfig
from monai_locor.cli.registration_outputs import OUTPUTS, chosen_outputs
from monai_locor.geometry import from_voxels, to_voxels
from monai_locor.io import read_displacement_field
from monai_locor.io.transforms import read_transform
from monai_locor.registration import Stage

from ..phantoms import CUBE, PLANE, grid_of, pair
from .short_runs import TINY, inner, run

TURNED = grid_of((30, 26, 24), (1.8, 2.2, 2.5), (3.0, 1.0, 0.0), 0.3)


@pytest.fixture(scope="module", params=["plane", "turned"])
def result(request):
    grid = {"plane": PLANE, "turned": TURNED}[request.param]
    fixed, moving, _ = pair(grid, {2: PLANE, 3: CUBE}[grid.dims])
    if request.param == "turned":  # stored in another order than the engine works in
        fixed = fixed.permute(0, 3, 1, 2).flip(1)
        affine = fixed.affine.clone()
        old = torch.from_numpy(grid.affine.copy())
        affine[:3, :3] = torch.stack((-old[:3, 2], old[:3, 0], old[:3, 1]), 1)
        affine[:3, 3] = old[:3, 3] + old[:3, 2] * (grid.shape[2] - 1)
        fixed.affine = affine
    stages = (Stage(2, 10), Stage(2, 10, spacing=8, learning_rate=0.16))
    return run(fixed, moving, RegistrationConfig(stages=stages, multistart="never", intersubject="never"))


@pytest.mark.parametrize("sign", [1, -1])
def test_its_exponential_is_the_deformation(result, sign):
    grid, velocity = result.fixed_grid, result.velocity_mm
    assert velocity.shape == result.forward_mm.shape and velocity.dtype == torch.float32
    ddf = DVF2DDF(num_steps=7)(sign * to_voxels(velocity, grid)[None])[0]
    moved = torch.from_numpy(grid.points()).movedim(-1, 0) + from_voxels(ddf, grid)
    if sign == 1:
        linear, shift = (torch.from_numpy(x) for x in (result.affine[:-1, :-1], result.affine[:-1, -1]))
        moved = torch.tensordot(linear, moved.double(), dims=1) + shift.reshape(-1, *[1] * grid.dims)
        expected = result.forward_mm + torch.from_numpy(grid.points()).movedim(-1, 0)
    else:  # y = A x
        back = result.transform_points(apply(result.affine, grid.points()).reshape(-1, grid.dims), inverse=True)
        expected = torch.from_numpy(np.moveaxis(back.reshape(*grid.shape, -1), -1, 0))
    away = torch.linalg.vector_norm(moved - expected, dim=0)[inner(grid) > 0]
    assert float(torch.linalg.vector_norm(velocity, dim=0).max()) > 1
    assert float(away.quantile(0.95)) < 0.1 * float(grid.spacing.min())


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def test_the_file(result, tmp_path):
    (path,) = OUTPUTS["velocity"].write(result, tmp_path / OUTPUTS["velocity"].name)
    image, signs = nib.load(path), np.array([-1, -1, 1])[: result.fixed_grid.dims]
    written = np.asarray(image.dataobj).reshape(*result.fixed_grid.shape, -1) * signs
    np.testing.assert_allclose(np.moveaxis(written, -1, 0), result.velocity_mm, atol=1e-5)
    assert image.header.get_intent()[::2] == ("vector", "velocity")


@pytest.mark.parametrize("read", [read_displacement_field, read_transform])
def test_no_reader_takes_it_for_a_displacement(result, tmp_path, read):
    (path,) = OUTPUTS["velocity"].write(result, tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match=r"v\.nii\.gz: holds a (stationary )?velocity"):
        read(path)


def test_without_a_step_it_is_zero():
    found = run(*pair(PLANE, PLANE)[:2], RegistrationConfig(stages=(Stage(4, 1),), multistart="never"))
    assert found.velocity_mm.shape == found.forward_mm.shape and not found.velocity_mm.any()


@pytest.mark.parametrize(
    ("changes", "why"), [({"transform": "rigid"}, "it needs a deformation"), ({"composition": "stages"}, "one per stage")]
)
def test_where_there_is_none(changes, why):
    config = dataclasses.replace(TINY, **changes)
    with pytest.raises(InputError, match=f"--outputs velocity: .*{why}"):
        chosen_outputs("forward,velocity", config)
    assert "velocity" not in chosen_outputs("all", config) and "velocity" in chosen_outputs("all", TINY)
    found = run(*pair(PLANE, PLANE)[:2], config)
    assert found.velocity is None
    with pytest.raises(InputError, match="no velocity field"):
        _ = found.velocity_mm
