# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The demonstration: its arguments, what it writes and prints, with a stand-in for the registration."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.cli import demo as command
from monai_locor.cli import demonstration, main
from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid
from monai_locor.io import read_displacement_field, read_image
from monai_locor.report import Reason, Verdict


@pytest.fixture(autouse=True)
def matplotlib():
    return pytest.importorskip("matplotlib")


@pytest.fixture
def calls(monkeypatch):
    """Replace the registration by one that answers with a given displacement; returns what it was called with."""
    seen: dict = {"displacement": torch.zeros_like, "status": "PASS"}

    def register(fixed, moving, *, preset="default", device=None, seed=0, progress=True):
        seen.update(fixed=fixed, moving=moving, preset=preset, device=device, seed=seed)
        images = [image if isinstance(image, torch.Tensor) else read_image(image)[0] for image in (fixed, moving)]
        grids = [Grid.of(image) for image in images]
        forward = seen["displacement"](torch.zeros(grids[0].dims, *grids[0].shape))
        return SimpleNamespace(
            forward_mm=forward,
            fixed_grid=grids[0],
            moving_grid=grids[1],
            warped_moving=MetaTensor(images[0].clone()),
            verdict=Verdict(seen["status"], (Reason("overlap", seen["status"], "little is shared", "look at it"),)),
            save=lambda folder: (folder / "run.json").write_text("{}"),
        )

    monkeypatch.setattr(demonstration, "register", register)
    monkeypatch.setattr(demonstration, "write_report", lambda path, result: path.write_text("<html>"))
    return seen


@pytest.fixture
def files(tmp_path):
    """Two small images in NIfTI files."""
    rng, paths = np.random.default_rng(0), []
    smooth = np.add.outer(np.add.outer(np.arange(14.0), np.sin(np.arange(12.0))), np.arange(10.0) ** 0.5)
    for name in ("a", "b"):
        paths.append(tmp_path / f"{name}.nii.gz")
        noisy = (smooth + 0.1 * rng.random(smooth.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(noisy, np.diag([2, 2, 3, 1.0])), paths[-1])
    return [str(p) for p in paths]


@pytest.mark.slow
def test_the_built_in_pair_has_a_known_answer(tmp_path, calls, capsys):
    pytest.importorskip("nilearn")
    options = "--spacing 6 --seed 3 --preset fast --device cpu --output-dir".split()
    assert main(["demo", *options, str(tmp_path / "new" / "out")]) == 0
    out = capsys.readouterr().out
    assert "target registration error" in out and "before_after.png" in out and "folding 0 %" in out
    assert (calls["preset"], calls["seed"], calls["device"]) == ("fast", 3, "cpu")
    written = {p.name for p in (tmp_path / "new" / "out").iterdir()}
    assert written == {
        *("before_after.png", "fixed.nii.gz", "mask.nii.gz", "moving.nii.gz", "run.json", "truth_field.nii.gz"),
        "report.html",
    }
    truth, grid = read_displacement_field(tmp_path / "new" / "out" / "truth_field.nii.gz")
    torch.testing.assert_close(truth.float(), random_diffeomorphism(grid, 3), atol=1e-3, rtol=0)


@pytest.mark.slow
def test_the_truth_has_no_error(tmp_path, calls, capsys):
    pytest.importorskip("nilearn")
    calls["displacement"] = lambda zero: random_diffeomorphism(Grid.of(calls["fixed"]), 0)
    assert main(["demo", "--spacing", "8", "--output-dir", str(tmp_path)]) == 0
    assert "0.00 mm (95 % below 0.00) after" in capsys.readouterr().out


@pytest.mark.slow
def test_files_are_registered_without_a_truth(tmp_path, calls, files, capsys):
    assert main(["demo", "--fixed", files[0], "--moving", files[1], "--output-dir", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "normalized mutual information" in out and "no TRE" in out and "target registration error" not in out
    assert str(calls["fixed"]) == files[0] and str(calls["moving"]) == files[1]
    assert (tmp_path / "out" / "before_after.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("status", "code"), [("FAIL", 1), *(pytest.param(s, 0, marks=pytest.mark.slow) for s in ("PASS", "WARN"))]
)
def test_the_verdict_is_told_and_is_the_exit_code(tmp_path, calls, files, capsys, status, code):
    calls["status"] = status
    words = ["--fixed", files[0], "--moving", files[1], "--output-dir", str(tmp_path / "out")]
    assert main(["demo", *words]) == code
    out = capsys.readouterr().out
    assert f"verdict: {status}" in out and ("little is shared; look at it" in out) == (status != "PASS")
    assert main(["demo", *words, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"]["status"] == status


@pytest.mark.slow
def test_no_common_overlap_is_said(tmp_path, calls, files, capsys):
    calls["displacement"] = lambda zero: zero + 1e4
    assert main(["demo", "--fixed", files[0], "--moving", files[1], "--output-dir", str(tmp_path / "out")]) == 0
    assert "cannot be compared" in capsys.readouterr().out


def test_flat_images_are_drawn_too(tmp_path, calls, capsys):
    paths = [str(tmp_path / f"{n}.nii.gz") for n in "ab"]
    for path in paths:
        nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 16)).astype(np.float32), np.eye(4)), path)
    assert main(["demo", "--fixed", paths[0], "--moving", paths[1], "--output-dir", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fixed", "a.nii"], "belong together"),
        (["--fixed", "none.nii", "--moving", "none.nii"], "none.nii"),
        (["--seed", "-1"], "--seed"),
        (["--spacing", "100"], "spacing_mm"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(tmp_path, calls, capsys, options, message):
    assert main(["demo", *options, "--output-dir", str(tmp_path)]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and message in stderr
    assert "fixed" not in calls


def test_an_unwritable_output_is_told_before_the_work(tmp_path, calls, files, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", "--fixed", files[0], "--moving", files[1], "--output-dir", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err and "fixed" not in calls


def test_missing_packages_are_named_with_the_extra(tmp_path, calls, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["demo", "--output-dir", str(tmp_path)]) == 2
    assert "matplotlib and nilearn: pip install 'monai-locor[demo]'" in capsys.readouterr().err
