# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``check``: judges any transform as ``register`` judges its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_locor import InputError, RegistrationConfig, check, register
from monai_locor.geometry import SpatialTransform
from monai_locor.io import write_image
from monai_locor.quality import Verdict
from monai_locor.registration import Stage, described, manifest

from ..phantoms import anatomy, image
from ..report.results import GRID, GRID_2D, aligned, noise, result_with, shift
from ..run_schema import valid_run

STEPS = RegistrationConfig(stages=(Stage(2, 3), Stage(2, 3, 4)), multistart="never", intersubject="never")
GRIDS = pytest.mark.parametrize("grid", [GRID_2D, pytest.param(GRID, marks=pytest.mark.slow)], ids=["2-D", "3-D"])


def translation(grid, mm: float) -> np.ndarray:
    matrix = np.eye(grid.dims + 1)
    matrix[0, -1] = mm
    return matrix


def assert_same(one: Verdict, other: Verdict, tolerance: float = 1e-5) -> None:
    """Two verdicts on one transform agree, measures up to rounding."""
    statuses = ({reason.check: reason.status for reason in each.reasons} for each in (one, other))
    assert one.status == other.status and next(statuses) == next(statuses)
    numbers = ({k: math.nan if v is None else v for k, v in each.measures.items()} for each in (one, other))
    assert next(numbers) == pytest.approx(next(numbers), rel=1e-4, abs=tolerance, nan_ok=True)


@GRIDS
@pytest.mark.usefixtures("no_rivals")
def test_forms_of_one_transform_have_one_verdict(grid):
    pair, matrix = aligned(grid), translation(grid, 3.0)
    affine = SpatialTransform.of_affine(matrix)
    forms = [matrix, torch.from_numpy(matrix), affine, [affine, (affine, True), affine], (affine.inverse(), True)]
    one, *others = (check(*pair, form) for form in forms)
    for other in others:
        np.testing.assert_allclose(other.affine, one.affine, atol=1e-12)  # all that another orientation is compared with
        np.testing.assert_array_equal(other.initial, one.initial)
        assert (other.verdict.status, other.verdict.reasons) == (one.verdict.status, one.verdict.reasons)
    field = check(*pair, affine.displacement(grid), inverse=affine.inverse().displacement(grid))
    assert field.config.transform == "deformable" and one.config.transform == "affine"
    np.testing.assert_allclose(field.affine, matrix, atol=1e-5)
    for name in ("nmi_before", "nmi_after", "local_support", "overlap", "stretch"):
        assert field.verdict.measures[name] == pytest.approx(one.verdict.measures[name], rel=1e-3), name


@GRIDS
def test_right(grid):
    verdict = check(*aligned(grid), np.eye(grid.dims + 1)).verdict
    assert verdict.status == "PASS" and {rival.mirrored for rival in verdict.rivals} == {False, True}


@GRIDS
@pytest.mark.usefixtures("no_rivals")  # without them, other reasons must be enough
def test_wrong_and_unrelated(grid):
    fixed, moving = aligned(grid)
    assert check(fixed, moving, translation(grid, 12.0)).verdict.status == "FAIL"
    assert check(fixed, noise(grid), np.eye(grid.dims + 1)).verdict.status == "FAIL"


@GRIDS
def test_identity_on_images_that_are_apart_does_not_pass(grid):
    fixed, _ = aligned(grid)
    points = grid.points()
    points[..., 0] -= 6
    assert check(fixed, image(anatomy(points), grid), np.eye(grid.dims + 1)).verdict.status != "PASS"


@pytest.mark.usefixtures("no_rivals")
def test_the_course_of_the_optimization_is_unknown():
    reasons = {reason.check: reason for reason in check(*aligned(GRID_2D), np.eye(3)).verdict.reasons}
    assert reasons["optimization"].status == "SKIP" and not {"convergence", "steps", "stages"} & reasons.keys()


def test_a_start_without_overlap_is_no_reason_to_warn():
    """The headers place the images 500 mm apart, the transform brings them together."""
    fixed, moving = aligned(GRID_2D)
    moving.affine[0, -1] += 500
    verdict = check(fixed, moving, translation(GRID_2D, 500.0)).verdict
    assert verdict.status == "PASS" and verdict.measures["information_gain"] is None


def test_a_result_keeps_its_verdict():
    fixed, moving = aligned(GRID_2D)
    result = result_with(fixed, moving, shift(GRID_2D, 1.0, 0.0), doubts=("a doubt",))
    again = check(fixed, moving, result)
    assert again.registered and again.history == result.history
    assert "a doubt" in [reason.text for reason in again.verdict.reasons]
    assert {"convergence", "steps", "stages"} <= {reason.check for reason in again.verdict.reasons}


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that are hashed."""
    found, whole = [], manifest.sha256

    def counted(path, *rest):
        found.append(path.name)
        return whole(path, *rest)

    for module in (described, manifest):
        monkeypatch.setattr(module, "sha256", counted)
    return found


@GRIDS
def test_a_folder_of_a_registration_keeps_its_verdict(grid, tmp_path, caplog, hashed):
    """Also with its mask, which is not named again; other images make the folder a transform like any other."""
    names = ("fixed.nii.gz", "moving.nii.gz", "mask.nii.gz")
    fixed, moving = aligned(grid)
    mask = torch.zeros_like(fixed)
    mask[:, 8:-8, 4:-4] = 1
    files = [str(tmp_path / name) for name in names]
    for path, values in zip(files, (fixed, moving, mask), strict=True):
        write_image(path, values, grid)
    result = register(files[0], files[1], fixed_mask=files[2], preset=STEPS, device="cpu", progress=False)
    result.save(tmp_path / "out")
    assert valid_run(tmp_path / "out" / "run.json")["kind"] == "registration"
    for folder in (tmp_path / "out", str(tmp_path / "out" / "run.json")):
        hashed.clear()
        again = check(files[0], files[1], folder)
        assert again.registered and sorted(hashed) == sorted(names)  # each once
        assert_same(again.verdict, result.verdict)
    elsewhere = check(files[0], files[0], tmp_path / "out")
    assert not elsewhere.registered and "registered another moving image" in caplog.text
    with pytest.raises(InputError, match="records a check"):
        elsewhere.save(tmp_path / "again")
        check(files[0], files[1], tmp_path / "again")


def test_what_is_refused():
    pair = aligned(GRID_2D)
    for given, message in (
        (np.zeros((3, 3)), "transform must be an invertible 3x3 matrix"),
        (np.eye(4), "transform must be an invertible 3x3 matrix"),
        (SpatialTransform.of_affine(np.eye(4)), "transform has 3 dimensions, the fixed image 2"),
        ("none.tfm", "none.tfm: no such file"),
        ("none", "transform 'none': no such file"),
        (3.0, "transform must be"),
    ):
        with pytest.raises(InputError, match=message):
            check(*pair, given)
    with pytest.raises(InputError, match="both must be 2-D or both 3-D"):
        check(pair[0], aligned(GRID)[1], np.eye(3))
