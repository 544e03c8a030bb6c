# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Registrations of other libraries' images are those of files, whatever the orientation, and go back to these libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor import register
from monai_locor.geometry import Grid, inside, mapped_points
from monai_locor.io import write_image
from monai_locor.registration import RegistrationConfig, RegistrationResult, Stage
from monai_locor.tensors import plain

from ..io.library_objects import IMAGES, sitk
from ..io.test_libraries import through_library
from ..io.transform_cases import inner_points
from ..parameters import mostly_slow
from ..phantoms import turned

TINY = RegistrationConfig(stages=(Stage(2, 3), Stage(2, 3, spacing=8, learning_rate=0.1)), multistart="never")
#: fixed and moving grid: flips, oblique turns, another spacing, 2-D
PAIRS = {
    "straight": (turned(0.0, (2.0, 2.0, 2.0), (14, 15, 13)), turned(0.0, (2.5, 2.0, 2.0), (13, 15, 14))),
    "oblique": (turned(0.3, (2.0, -2.0, 2.2), (14, 15, 13)), turned(-0.2, (2.1, 2.0, -2.0), (15, 14, 15))),
    "flipped": (turned(0.1, (-2.0, -2.0, 2.0), (14, 15, 13)), turned(3.0, (2.0, 2.0, 2.5), (15, 16, 13))),
    "flat": (turned(0.3, (2.0, -2.0), (24, 25)), turned(-0.2, (-2.1, 2.0), (26, 24))),
}
KINDS = {**IMAGES, "(array, affine)": lambda array, grid: (array, grid.full_affine)}


def values(grid: Grid, phase: float) -> np.ndarray:
    world = grid.points() - grid.center
    near = np.exp(-((world - phase) ** 2).sum(-1) / 200)
    return (near + 0.2 * np.sin(world @ np.full(grid.dims, 0.25))).astype(np.float32)


def pair(place: str, kind) -> tuple:
    fixed, moving = PAIRS[place]
    return kind(values(fixed, 0.0), fixed), kind(1 - values(moving, 2.0), moving)


def mask(grid: Grid, kind):
    return kind((values(grid, 0.0) > -0.1).astype(np.uint8), grid)


def run(*images, **options) -> RegistrationResult:
    return register(*images, preset=TINY, progress=False, device="cpu", **options)


@pytest.fixture(scope="module")
def from_files(tmp_path_factory):
    """Results of the same images as files, computed once."""
    folder, known = tmp_path_factory.mktemp("files"), {}

    def result(place: str) -> RegistrationResult:
        if place not in known:

            def written(array, grid):
                path = folder / f"{place}{len(list(folder.iterdir()))}.nii.gz"
                write_image(path, torch.from_numpy(array)[None], grid)
                return path

            known[place] = run(*pair(place, written), fixed_mask=mask(PAIRS[place][0], written))
        return known[place]

    return result


@pytest.mark.parametrize("place", mostly_slow(["oblique", *(p for p in PAIRS if p != "oblique")]))
@pytest.mark.parametrize("library", mostly_slow(KINDS, 2))
def test_images_and_masks_are_as_files(library, place, from_files):
    found = run(*pair(place, KINDS[library]), fixed_mask=mask(PAIRS[place][0], KINDS[library]))
    expected = from_files(place)
    assert found.fixed_grid.shape == expected.fixed_grid.shape
    np.testing.assert_allclose(found.fixed_grid.affine, expected.fixed_grid.affine, atol=1e-4)
    torch.testing.assert_close(found.forward_mm, expected.forward_mm, atol=2e-2, rtol=0)
    assert found.arguments["fixed"]["shape"] == [1, *found.fixed_grid.shape] and found.inputs == {}


@pytest.mark.parametrize("place", mostly_slow(["oblique", "flat", "straight", "flipped"]))
def test_simpleitk_maps_points_and_resamples_as_we_do(place):
    result = run(*pair(place, IMAGES["SimpleITK"]))
    fixed, moving = pair(place, IMAGES["SimpleITK"])
    points = inner_points(result.fixed_grid)
    for transform in (result.to_sitk(), result.to_itk()):
        np.testing.assert_allclose(through_library(transform, points), result.transform_points(points), atol=1e-3)
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, result.to_sitk(), sitk.sitkLinear)).T
    here = inside(
        mapped_points(result.fixed_grid, result.moving_grid, result.forward_mm), result.moving_grid.shape, margin=0.01
    )
    assert here.double().mean() > 0.5
    np.testing.assert_allclose(plain(result.warped_moving)[0][here], theirs[here.numpy()], atol=1e-3)


def test_a_mixture_of_everything(tmp_path):
    fixed, moving = PAIRS["oblique"]
    write_image(tmp_path / "moving.nii.gz", torch.from_numpy(1 - values(moving, 2.0))[None], moving)
    found = run(
        IMAGES["itk"](values(fixed, 0.0), fixed),
        tmp_path / "moving.nii.gz",
        fixed_mask=(values(fixed, 0.0) > -0.1).tolist(),
        moving_mask=IMAGES["ants"](np.ones(moving.shape, np.float32), moving),
        initial="center",
    )
    assert found.config.initialization == "centers" and found.inputs == {"moving": str(tmp_path / "moving.nii.gz")}
