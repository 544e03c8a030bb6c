# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The error map of a registration and of a check, and its file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monai_locor import InputError, RegistrationResult, check
from monai_locor.quality import ErrorMap
from monai_locor.registration.error_files import read_error_map, write_error_map

from ..phantoms import grid_of, pair
from ..report.results import GRID, GRID_2D
from .short_runs import TINY, run


@pytest.fixture(scope="module")
def result():
    return run(*pair()[:2], TINY)


def random_map(grid) -> ErrorMap:
    values = torch.rand(3, *grid.shape, generator=torch.Generator().manual_seed(1)).half().float()
    values[:, :2] = torch.nan
    return ErrorMap.of_channels(values, grid)


@pytest.mark.parametrize("grid", [GRID, GRID_2D], ids=["3-D", "2-D"])
def test_the_file_has_the_same_values(tmp_path, grid):
    made = random_map(grid)
    write_error_map(tmp_path / "error.nii.gz", made)
    found = read_error_map(tmp_path / "error.nii.gz", grid)
    torch.testing.assert_close(found.channels(), made.channels(), rtol=0, atol=0, equal_nan=True)
    np.testing.assert_allclose(read_error_map(tmp_path / "error.nii.gz").grid.affine, grid.affine, atol=1e-5)


def test_another_image_is_refused(tmp_path):
    write_error_map(tmp_path / "error.nii.gz", random_map(GRID))
    with pytest.raises(InputError, match="give the map of this pair"):
        read_error_map(tmp_path / "error.nii.gz", grid_of((8, 8, 8)))


def test_a_registration_has_an_error_map_that_is_saved_and_loaded(result, tmp_path):
    error = result.error_mm
    assert error.expected_mm.shape == result.fixed_grid.shape and error.determined.any()
    assert tmp_path / "error.nii.gz" in result.save(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["error_mm"] == error.summary()
    loaded = RegistrationResult.load(tmp_path, result.fixed_image, result.moving_image)
    torch.testing.assert_close(loaded.error_mm.channels(), error.channels(), rtol=0, atol=0, equal_nan=True)
    assert result.timings["error"] >= 0


@pytest.mark.slow
def test_a_check_estimates_the_same_error(result):
    found = check(result.fixed_image, result.moving_image, result.transform).error_mm
    torch.testing.assert_close(found.channels(), result.error_mm.channels(), rtol=0.02, atol=0.01, equal_nan=True)
    assert check(result.fixed_image, result.moving_image, result).error_mm is result.error_mm
