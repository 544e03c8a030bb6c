# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``check``: the verdict on a transform from any tool."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, SpatialTransform, same_grid
from monai_locor.io.transforms import write_transform
from monai_locor.quality import Verdict
from monai_locor.registration import checking
from monai_locor.registration.error_files import read_error_map

from ..phantoms import grid_of
from ..report.results import aligned
from ..run_schema import valid_run
from .files import REGISTER, SHIFT, save

GRID = grid_of((32, 28, 26), (2.0, 2.0, 2.0))
PAIR = ("fixed.nii.gz", "moving.nii.gz")


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """An aligned pair of two modalities, and a translation of 12 mm, as files in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, image in zip(PAIR, aligned(GRID), strict=True):
        save(tmp_path / name, image[0].numpy(), GRID.affine)
    matrix = np.eye(4)
    for name, mm in (("right.tfm", 0.0), ("wrong.tfm", 12.0)):
        matrix[0, 3] = mm
        write_transform(tmp_path / name, SpatialTransform.of_affine(matrix))
    return tmp_path


def test_exit_codes_and_outputs(run, pair):
    right = run("check", *PAIR, "right.tfm", "-o", "check.json", "--error-map", "error.nii.gz")
    assert right.code == 0 and "verdict: PASS" in right.out and "output: check.json" in right.out
    content = valid_run(pair / "check.json")
    assert read_error_map(pair / "error.nii.gz", GRID).summary() == content["error_mm"]
    assert content["kind"] == "check" and content["settings"] is None and content["stages"] == []
    assert content["arguments"]["transform"]["path"].endswith("right.tfm")
    wrong = run("check", *PAIR, "wrong.tfm", "--json")
    assert wrong.code == 1 and wrong.json["verdict"]["status"] == "FAIL"
    assert {r["check"] for r in wrong.json["verdict"]["reasons"] if r["status"] == "FAIL"} >= {"alignment"}
    assert "records a check" in run("register", "--from", "check.json", "-o", "out").err


@pytest.mark.usefixtures("no_rivals")
def test_a_list_with_an_inverse_is_the_identity(run, pair):
    answer = run("check", *PAIR, "wrong.tfm", "[wrong.tfm,1]", "--inverse-transform", "right.tfm", "--json")
    assert answer.json["verdict"] == run("check", *PAIR, "right.tfm", "--json").json["verdict"]


@pytest.mark.usefixtures("no_rivals")
def test_formats_are_those_of_the_transforms(run, pair):
    named = run("check", *PAIR, "wrong.tfm", "--from", "itk", "-o", "check.json", "--json").json
    assert named["verdict"] == run("check", *PAIR, "wrong.tfm", "--json").json["verdict"]
    assert json.loads((pair / "check.json").read_text())["arguments"]["transform"]["list"][0]["path"].endswith("wrong.tfm")


def test_the_options_reach_the_verdict(run, folder, monkeypatch):
    """Masks, channel, thresholds and the inverse; the field has the images apart by SHIFT."""
    seen = {}

    def verdict_of(result, images, thresholds):
        seen.update(result=result, images=images, thresholds=thresholds)
        return Verdict("WARN", ())

    monkeypatch.setattr(checking, "verdict_of", verdict_of)
    (folder / "limits.json").write_text('{"overlap": [0.9, 0.5]}')
    images = [folder / name for name in PAIR]
    answer = run(
        *("check", *images, folder / "field.nii.gz", "--inverse-transform", folder / "back.nii.gz"),
        *("--fixed-mask", folder / "fixed.nii.gz", "--thresholds", folder / "limits.json"),
    )
    assert answer.code == 0 and "verdict: WARN" in answer.out
    result, images = seen["result"], seen["images"]
    assert seen["thresholds"].overlap == (0.9, 0.5)
    assert torch.equal(images.fixed_weight > 0, images.fixed > 0)  # the mask is the fixed image itself
    assert images.moving_weight is None
    assert not result.registered and same_grid(result.moving_grid, Grid.of(result.moving_image))
    np.testing.assert_allclose(result.forward_mm.mean((1, 2, 3)), SHIFT)
    np.testing.assert_allclose(result.inverse_mm.mean((1, 2, 3)), -np.array(SHIFT))
    np.testing.assert_allclose(result.affine[:3, 3], SHIFT, atol=1e-5)


def test_masks_of_the_run_are_in_the_report(run, short_folder, monkeypatch):
    for role in ("fixed", "moving"):
        save(short_folder / f"{role}_mask.nii", np.pad(np.ones((12, 10, 8), np.uint8), 1))
    masks = ["--fixed-mask", "fixed_mask.nii", "--moving-mask", "moving_mask.nii"]
    assert run(*REGISTER, *masks, "-o", "out").code in (0, 1)
    seen = {}
    monkeypatch.setattr("monai_locor.report.html.write_report", lambda path, result, **shown: seen.update(shown))
    own = {f"{role}_mask": str(short_folder / f"{role}_mask.nii") for role in ("fixed", "moving")}
    run("check", *PAIR, "out", "--report", "check.html")
    assert seen == own
    save(short_folder / "other.nii", np.ones((14, 12, 10), np.uint8))
    run("check", *PAIR, "out", "--report", "check.html", "--fixed-mask", "other.nii")
    assert seen == {**own, "fixed_mask": "other.nii"}
    run("check", *PAIR[::-1], "out", "--report", "check.html")  # other images: only the transform of the run is used
    assert seen == {"fixed_mask": None, "moving_mask": None}


@pytest.mark.slow
def test_a_real_page(run, pair):
    pytest.importorskip("matplotlib")
    assert run("check", *PAIR, "right.tfm", "--report", "check.html").code == 0
    page = (pair / "check.html").read_text(encoding="utf-8")
    assert "the transform was computed elsewhere" in page and "Settings" not in page and "seed" not in page
