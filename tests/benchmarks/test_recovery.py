# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""`recovery.py`: what is measured, what is refused, and a run of all parts."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from .cases import FIXED, SHAPE, SHIFT, TWO_ITERATIONS, measure_here, save, save_field, scripts, write_blob_case

SLOPE = np.array([[0.02, -0.01, 0.03], [0.0, 0.04, 0.01], [-0.02, 0.01, -0.03]])
CONSTANT = np.array([1.0, -2.0, 0.5])  # mm


@pytest.fixture
def modules(monkeypatch):
    return scripts(monkeypatch, "recovery", "registration", "_score")


@pytest.fixture
def case(tmp_path):
    folder = write_blob_case(tmp_path / "cases" / "blobs")
    original = nib.load(folder / "fixed.nii.gz")
    save(tmp_path / "data" / "head.nii.gz", np.asarray(original.dataobj)[..., None], FIXED)  # an axis of one voxel
    (folder / "case.json").write_text(json.dumps({"fixed": "head.nii.gz"}), encoding="utf-8")
    return folder


def points():
    return np.moveaxis(np.indices(SHAPE), 0, -1) @ FIXED[:3, :3].T + FIXED[:3, 3]


def offset(at):
    """What a method finds without the deformation."""
    return CONSTANT + at @ SLOPE.T


def measured(modules, case, folder, forward):
    save_field(folder / "case" / modules.score.FORWARD, forward, FIXED)
    save_field(folder / "plain" / modules.score.FORWARD, offset(points()), FIXED)
    return modules.score.recovery(case, folder / "case", folder / "plain", case / "fixed.nii.gz")


def test_a_consistent_method_has_no_error(modules, case, tmp_path):
    save(case / "mask.nii.gz", np.ones(SHAPE, np.uint8), FIXED)
    found = measured(modules, case, tmp_path, SHIFT + offset(points() + SHIFT))
    assert found["recovered_mm"] < 1e-5 and found["recovered_p95_mm"] < 1e-5
    true = points().reshape(-1, 3) + SHIFT
    index = (true - FIXED[:3, 3]) @ np.linalg.inv(FIXED[:3, :3]).T
    inside = ((index >= -1e-3) & (index <= np.array(SHAPE) - 1 + 1e-3)).all(1)
    assert 0 < inside.sum() < len(inside)  # the other points have no offset
    assert found["offset_mm"] == pytest.approx(np.linalg.norm(offset(true[inside]), axis=1).mean(), rel=1e-5)


def test_an_error_is_the_distance_from_the_offset_at_the_true_point(modules, case, tmp_path):
    wrong = np.array([0.0, 3.0, -4.0])
    found = measured(modules, case, tmp_path, SHIFT + offset(points() + SHIFT) + wrong)
    assert found["recovered_mm"] == pytest.approx(5, abs=1e-4) == found["recovered_p95_mm"]
    exact = measured(modules, case, tmp_path, SHIFT)  # the truth itself, by a method that finds an offset otherwise
    assert exact["recovered_mm"] == pytest.approx(exact["offset_mm"], rel=1e-6)


def test_another_grid_is_refused(modules, case, tmp_path):
    save(tmp_path / "data" / "head.nii.gz", np.zeros(SHAPE, np.float32), FIXED @ np.diag([1, 1, 1.2, 1]))
    with pytest.raises(ValueError, match=r"blobs: head\.nii\.gz does not lie on the grid"):
        modules.recovery.undisturbed(case, tmp_path / "data", tmp_path / "plain")


def test_a_case_without_truth_is_refused_before_any_run(modules, case, tmp_path, capsys):
    (case / "truth.nii.gz").unlink()
    with pytest.raises(SystemExit):
        modules.recovery.parse([str(case.parent), "--originals", str(tmp_path / "data")])
    assert "blobs lack one of" in capsys.readouterr().err


def test_both_pairs_are_registered_and_runs_are_not_repeated(modules, case, tmp_path, monkeypatch, capsys):
    specs = measure_here(monkeypatch, modules.registration)
    preset = tmp_path / "two.json"
    preset.write_text(json.dumps(TWO_ITERATIONS), encoding="utf-8")
    arguments = [str(case.parent), "--originals", str(tmp_path / "data"), "--presets", str(preset), "--threads", "1"]
    arguments += ["--json", str(tmp_path / "runs.json"), "--resume", "--output", str(tmp_path / "out")]
    modules.recovery.main(arguments)
    plain = nib.load(next((tmp_path / "out").rglob("plain/forward_field.nii.gz")))
    assert plain.shape[:3] == SHAPE and len(specs) == 2 and specs[0].arguments["case"] == str(case)
    (run,) = json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))["runs"]
    assert run["problem"] == "" and run["tre_mm"] > 0 and run["recovered_mm"] > 0
    shown = capsys.readouterr().out
    assert f"{run['recovered_mm']:.2f} | {run['recovered_p95_mm']:.2f} |" in shown
    modules.recovery.main(arguments)
    assert len(specs) == 2 and capsys.readouterr().out.splitlines()[2:] == shown.splitlines()[2:]


def test_a_failure_without_the_deformation_is_told(modules, case, tmp_path, monkeypatch):
    def attempt(job, out, options):
        return job.key | {"problem": "" if job.case == case else "out of memory"}

    monkeypatch.setattr(modules.recovery, "attempt", attempt)
    job = modules.registration.Job(case, "fast", 0)
    found = modules.recovery.run(job, tmp_path / "plain", tmp_path / "out", None)
    assert found["problem"] == "without deformation: out of memory"
