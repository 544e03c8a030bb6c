# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Measures of a transform, before and after."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from .files import load, save


def test_a_perfect_transform(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    pytest.importorskip("scipy")
    found = run(
        *["evaluate", "-t", "field.nii.gz", "--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz"],
        *["--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "moving_labels.nii.gz", "--json"],
        *["--fixed-points", "fixed.csv", "--moving-points", "moving.csv", "--inverse-transform", "back.nii.gz"],
    ).json
    # 300 overlaps itself by one of three slices before
    assert found["dice"]["before"]["labels"] == pytest.approx({"-2": 0.0, "300": 1 / 3})
    assert found["dice"]["after"] == {"labels": {"-2": 1.0, "300": 1.0}, "mean": 1.0}
    assert found["hd95_mm"]["before"]["labels"]["300"] == pytest.approx(4.0) and found["hd95_mm"]["after"]["mean"] == 0
    assert found["tre_mm"]["before"]["mean"] == pytest.approx(4.0)  # by label: the files have another order
    assert found["tre_mm"]["after"]["max"] == pytest.approx(0.0, abs=1e-5) and len(found["tre_mm"]["after"]["each"]) == 2
    assert found["nmi"]["after"]["value"] > found["nmi"]["before"]["value"] > 1
    assert found["inverse_consistency_mm"]["max"] == pytest.approx(0.0, abs=1e-5)
    assert found["jacobian"]["min"] == pytest.approx(1.0) and found["jacobian"]["folding_voxels"] == 0


def test_the_table(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    out = run("evaluate", "-t", "field.nii.gz", "--fixed-points", "fixed.csv", "--moving-points", "moving.csv").out
    rows = {line[:13].strip(): line[13:].split() for line in out.splitlines() if line.startswith("TRE")}
    assert rows["TRE mm mean"] == ["4", "0"] and list(rows) == ["TRE mm mean", "TRE mm median", "TRE mm p95", "TRE mm max"]
    assert "before" in out and "Jacobian determinant 1 to 1" in out


def test_without_a_transform_what_is(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = run("evaluate", "--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "fixed_labels.nii.gz", "--json").json
    assert found["dice"] == {"before": {"labels": {"-2": 1.0, "300": 1.0}, "mean": 1.0}}
    assert "jacobian" not in found


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_field_that_is_not_finite_has_no_score(refused, folder, monkeypatch, bad, everywhere):
    monkeypatch.chdir(folder)
    image = nib.load("field.nii.gz")
    values = np.asarray(image.dataobj).copy()
    values[(...,) if everywhere else (2, 3, 4)] = bad
    nib.save(nib.Nifti1Image(values, image.affine, image.header), "bad.nii.gz")
    pair = ["--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "moving_labels.nii.gz"]
    assert "bad.nii.gz" in refused("evaluate", "-t", "bad.nii.gz", *pair)


def test_chosen_labels_and_a_mask(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    pair = ["--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "moving_labels.nii.gz"]
    save(folder / "mask.nii.gz", (load(folder / "fixed_labels.nii.gz") > 0).astype(np.uint8))
    found = run("evaluate", "-t", "field.nii.gz", *pair, "--labels", "300", "--mask", "mask.nii.gz", "--json").json
    assert list(found["dice"]["after"]["labels"]) == ["300"]


def test_landmarks_without_labels_go_by_their_order(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "a.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    (folder / "b.csv").write_text("x,y,z\n1,2,3\n4,5,9\n")
    found = run("evaluate", "--fixed-points", "a.csv", "--moving-points", "b.csv", "--json").json
    assert found["tre_mm"]["before"]["each"] == [0.0, 3.0]


def test_a_transform_that_knows_its_inverse(run, folder):
    (folder / "field.nii.gz").rename(folder / "forward_field.nii.gz")
    (folder / "back.nii.gz").rename(folder / "inverse_field.nii.gz")
    assert "inverse consistency" in run("evaluate", "-t", folder).out


def test_what_is_refused(refused, folder, monkeypatch):
    monkeypatch.chdir(folder)
    labels = ["--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "moving_labels.nii.gz"]
    points = ["--fixed-points", "fixed.csv", "--moving-points", "moving.csv"]
    (folder / "one.csv").write_text("x,y,z\n1,2,3\n")
    save(folder / "flat.nii.gz", np.ones((5, 6), np.int16))
    save(folder / "empty.nii.gz", np.zeros((5, 6, 7), np.int16))
    for words, message in (
        ([], "nothing to evaluate"),
        (labels[:2], "fixed_labels.nii.gz: --fixed-labels and --moving-labels must be given together"),
        (["--moving-points", "moving.csv"], "moving.csv: --fixed-points and --moving-points must be given together"),
        (["--moving", "moving.nii.gz"], "--fixed and --moving must be given together"),
        ([*labels, "--labels", "1,x"], "--labels 1,x: give integers"),
        ([*labels, "--labels", "5"], "5 not in fixed labels fixed_labels.nii.gz; it contains -2, 0, 300"),
        (["--fixed-labels", "fixed.nii.gz", *labels[2:]], "fixed labels fixed.nii.gz: holds the value"),
        (["--fixed-points", "one.csv", "--moving-points", "moving.csv"], "one.csv: 1 points of 3 coordinates"),
        ([*labels[:2], "--moving-labels", "flat.nii.gz"], "labels flat.nii.gz: are 2-D"),
        (["-t", "field.nii.gz", "--mask", "empty.nii.gz"], "empty.nii.gz: is empty"),
        (["-t", "none.nii.gz"], "none.nii.gz: no such file"),
        (["-t", "field.nii.gz", "--labels", "1"], "--labels 1: needs --fixed-labels and --moving-labels"),
        ([*points, "--labels", "300"], "--labels 300: needs --fixed-labels and --moving-labels"),
        ([*labels, "--inverse-transform", "back.nii.gz"], "--inverse-transform back.nii.gz: needs a transform with -t"),
        ([*labels, "--mask", "fixed_labels.nii.gz"], "--mask fixed_labels.nii.gz: needs a transform with -t, or --fixed"),
        ([*points, "--mask", "fixed_labels.nii.gz", "--fixed", "fixed.nii.gz"], "needs a transform with -t, or --fixed and"),
    ):
        assert message in refused("evaluate", *words), words
