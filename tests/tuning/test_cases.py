# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Cases and their scores."""

from __future__ import annotations

import json
import math

import pytest
import torch

from monai_locor import InputError
from monai_locor.tuning import SCORES, Case, choose_score, find_cases

from .small import GRID, SHIFT, write_plane_case

DISTANCE = math.hypot(*SHIFT)


def perfect() -> torch.Tensor:
    return torch.tensor(SHIFT).view(2, 1, 1).expand(2, *GRID.shape).contiguous()


def test_truth_landmarks_and_labels(tmp_path):
    truth = Case(write_plane_case(tmp_path / "truth"))
    assert truth.scores == ("tre",) and truth.measure(None) == {"tre": pytest.approx(DISTANCE)}
    assert truth.measure(perfect()) == {"tre": pytest.approx(0, abs=1e-5)}
    points = Case(write_plane_case(tmp_path / "points", truth=False, landmarks=True))
    assert points.measure(None) == {"tre": pytest.approx(DISTANCE)}
    assert points.measure(perfect() / 2) == {"tre": pytest.approx(DISTANCE / 2)}
    labels = Case(write_plane_case(tmp_path / "labels", truth=False, labels=True))
    before, after = labels.measure(None)["dice"], labels.measure(perfect())["dice"]
    assert 0.5 < before < 0.9 < after <= 1
    everything = Case(write_plane_case(tmp_path / "all", labels=True, landmarks=True))
    assert everything.scores == ("tre", "dice")
    assert everything.measure(perfect()) == {"tre": pytest.approx(0, abs=1e-5), "dice": after}


def test_only_the_mask_counts(tmp_path):
    from monai_locor.io import write_image

    folder = write_plane_case(tmp_path / "a")
    mask = torch.zeros(1, *GRID.shape)
    mask[0, :5] = 1
    write_image(folder / "mask.nii.gz", mask, GRID, "uint8")
    wrong = perfect()
    wrong[:, 5:] = 100
    assert Case(folder).measure(wrong)["tre"] == pytest.approx(0, abs=1e-5)


def test_a_study_brings_its_own_score(tmp_path):
    folder = write_plane_case(tmp_path / "a")
    from monai_locor.io import write_image

    write_image(folder / "mask.nii.gz", torch.ones(1, *GRID.shape), GRID, "uint8")
    (folder / "case.json").write_text(json.dumps({"study": "ixi", "name": "a"}))
    case = Case(folder)
    assert case.study == "ixi" and case.scores == ("study", "tre") and choose_score([case]).name == "study"
    assert case.measure(None)["study"] == pytest.approx(DISTANCE / 2)  # voxels of 2 mm
    (folder / "case.json").write_text(json.dumps({"name": "a", "seed": 3}))
    assert Case(folder).study is None


def test_scores_agree_with_the_benchmarks(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    from monai_locor.geometry import Grid
    from monai_locor.io import write_displacement_field

    from ..benchmarks.cases import FIXED, SHAPE, scripts, write_blob_case

    folder = write_blob_case(tmp_path / "a", labels=True)
    u = torch.randn(3, *SHAPE)
    write_displacement_field(tmp_path / "forward_field.nii.gz", u, Grid(SHAPE, FIXED))
    theirs = scripts(monkeypatch, "_score").score.score(folder, tmp_path)
    ours, before = Case(folder).measure(u), Case(folder).measure(None)
    assert ours["tre"] == pytest.approx(theirs["tre_mm"], rel=1e-5)
    assert ours["dice"] == pytest.approx(theirs["dice"]) and before["dice"] == pytest.approx(theirs["dice_before"])
    assert before["tre"] == pytest.approx(theirs["tre_before_mm"], rel=1e-5)


def test_a_displacement_must_fit(tmp_path):
    case = Case(write_plane_case(tmp_path / "a"))
    with pytest.raises(ValueError, match="must be finite"):
        case.measure(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="must be finite"):
        case.measure(torch.full((2, *GRID.shape), math.nan))


def test_finding_cases(tmp_path):
    for name in ("b", "a"):
        write_plane_case(tmp_path / name)
    assert [case.name for case in find_cases(tmp_path)] == ["a", "b"]
    assert [case.name for case in find_cases(tmp_path, ["b", "b"])] == ["b"]
    with pytest.raises(InputError, match="has no case c; its cases are a, b"):
        find_cases(tmp_path, ["c"])
    write_plane_case(tmp_path / "nothing", truth=False)
    with pytest.raises(InputError, match=r"nothing: no reference to score against; add truth\.nii\.gz"):
        find_cases(tmp_path)
    with pytest.raises(InputError, match="contains no case"):
        find_cases(tmp_path / "a")


def test_files_that_do_not_fit_are_refused(tmp_path):
    folder = write_plane_case(tmp_path / "a", truth=False, landmarks=True)
    (folder / "moving_landmarks.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="give pairs of 2-D points"):
        Case(folder).measure(None)
    other = write_plane_case(tmp_path / "b", shift=(0.0, 0.0), labels=True)
    from monai_locor.geometry import Grid
    from monai_locor.io import write_displacement_field, write_image

    grid = Grid((5, 5), GRID.affine)
    write_displacement_field(other / "truth.nii.gz", torch.zeros(2, 5, 5), grid)
    with pytest.raises(InputError, match=r"truth\.nii\.gz: is not on the grid of fixed\.nii\.gz"):
        Case(other).measure(None)
    write_image(folder / "fixed_labels.nii.gz", torch.ones(1, *GRID.shape), GRID, "uint8")
    write_image(folder / "moving_labels.nii.gz", torch.full((1, *GRID.shape), 2.0), GRID, "uint8")
    (folder / "moving_landmarks.csv").unlink()
    with pytest.raises(InputError, match="have no label in common"):
        Case(folder).measure(None)


def test_the_digest_is_of_the_contents(tmp_path):
    first, second = (Case(write_plane_case(tmp_path / name / "x")).digest() for name in ("one", "two"))
    changed = write_plane_case(tmp_path / "three" / "x", shift=(1.0, 1.0))
    assert first == second != Case(changed).digest()


def test_choosing_the_score(tmp_path):
    points = Case(write_plane_case(tmp_path / "points"))
    labels = Case(write_plane_case(tmp_path / "labels", truth=False, labels=True))
    both = Case(write_plane_case(tmp_path / "both", labels=True))
    chosen = [choose_score(cases).name for cases in ([points, both], [labels, both], [points, labels, both], [both])]
    assert chosen == ["tre", "dice", "relative", "tre"]
    assert choose_score([both], "dice").name == "dice"
    with pytest.raises(InputError, match="'dice': not available for points"):
        choose_score([points, both], "dice")
    with pytest.raises(InputError, match="'mse' is unknown; choose from auto, study, tre, dice, relative"):
        choose_score([both], "mse")


def test_values_of_scores():
    found, before = {"tre": 1.0, "dice": 0.8}, {"tre": 4.0, "dice": 0.6}
    assert [SCORES[name].value(found, before) for name in ("tre", "dice", "relative")] == pytest.approx([1.0, 0.2, 0.25])
    assert SCORES["relative"].value({"dice": 0.8}, {"dice": 0.6}) == pytest.approx(0.5)
    assert SCORES["relative"].value(before, before) == 1
