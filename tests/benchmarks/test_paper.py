# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The paper's data sets as benchmark cases, and its measures of the results."""

from __future__ import annotations

import json
import shutil
from types import ModuleType

import numpy as np
import pytest
from studies import Learn2Reg

from monai_locor.data.study_case import read_case
from monai_locor.io import write_displacement_field

from .cases import scripts
from .study_folders import learn2reg, shifted

pytest.importorskip("scipy")
CASES = [f"learn2reg_000{n}_0000_from_000{n}_0001" for n in (1, 2)]


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, imported as the interpreter does when it runs it."""
    return scripts(monkeypatch, "paper").paper


def test_complete_cases_are_prepared_and_the_others_named(paper, tmp_path, capsys):
    study = Learn2Reg(learn2reg(tmp_path / "data"))
    study.pairs("train")[0].moving.unlink()
    assert paper.main(["prepare", "learn2reg", str(tmp_path / "data"), str(tmp_path / "cases")]) == 1
    told = capsys.readouterr()
    assert told.out.split() == CASES[1:] and "PhantomMRCT_0001_0001.nii.gz is missing" in told.err
    assert "1 of 2 cases are not prepared; the data sets are at https://learn2reg" in told.err
    case = read_case(tmp_path / "cases" / CASES[1])
    assert case.study == "learn2reg" and case.about["displacement"] == "disp_0002_0002.nii.gz"
    assert [path.name for path in (tmp_path / "cases").iterdir()] == CASES[1:]


def test_scores_are_medians_over_seeds_and_means_over_cases(paper, tmp_path, capsys):
    learn2reg(tmp_path / "data")
    cases, out = tmp_path / "cases", tmp_path / "results"
    assert paper.main(["prepare", "learn2reg", str(tmp_path / "data"), str(cases)]) == 0
    grid = read_case(cases / CASES[0]).grid
    for name, voxels in ((CASES[0], (1, 1, 0)), (CASES[1], (1, 0, None))):  # None: a run that failed
        for seed, voxel in enumerate(voxels):
            run = out / name / "ours" / str(seed)
            run.mkdir(parents=True)
            if voxel is not None:
                write_displacement_field(run / paper.FORWARD, shifted((voxel, 0, 0)), grid)
    capsys.readouterr()
    assert paper.main(["score", str(cases), str(out), "--json", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    before = found[CASES[0]]["tools"]["(nothing)"]["dice"]
    first, second = (found[name]["tools"]["ours"] for name in CASES)
    assert (first["dice"], first["runs"], first["failed"]) == (1, 3, 0)
    assert (second["dice"], second["runs"], second["failed"]) == (before, 3, 1) and before < 1
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("| ours |")).split(" | ")
    mean, spread = np.mean([1, before]), np.std([1, before], ddof=1)
    assert row[1:4] == ["2/2", "1/6", f"{mean:.4g} ± {spread:.3g}"]
    assert "tre_keypoints_mm" in printed and "| (nothing) | 2/2 | 0/2 |" in printed


def test_a_result_without_score_counts_as_no_registration(paper, tmp_path):
    learn2reg(tmp_path / "data")
    paper.main(["prepare", "learn2reg", str(tmp_path / "data"), str(tmp_path / "cases"), "--cases", CASES[0][10:]])
    case = read_case(tmp_path / "cases" / CASES[0])
    run = tmp_path / "run"
    run.mkdir()
    assert paper.displacement(run, case) is None
    write_displacement_field(run / paper.FORWARD, shifted((1, 0, 0)), case.grid)
    assert paper.displacement(run, case) is not None
    part = case.grid.cropped([slice(1, 20), slice(0, 18), slice(0, 16)])
    write_displacement_field(run / paper.FORWARD, shifted((1, 0, 0))[:, 1:], part)
    assert paper.displacement(run, case) is None
    (run / paper.FORWARD).write_bytes(b"no")
    assert paper.displacement(run, case) is None


def test_errors(paper, tmp_path, capsys):
    learn2reg(tmp_path / "data")
    data, cases = str(tmp_path / "data"), str(tmp_path / "cases")
    for arguments, message in (
        (["prepare", "ixi", data, cases, "--masks", "roi"], "--masks does not belong to ixi"),
        (["prepare", "ixi", data + "x", cases], "no such folder"),
        (["prepare", "learn2reg", data, cases, "--split", "test"], "choose from train, val"),
        (["score", data, cases], "holds no case of abdomen, cermep, ixi, learn2reg"),
    ):
        assert paper.main(arguments) == 2
        assert message in capsys.readouterr().err
    shutil.rmtree(data)
    assert paper.main(["prepare", "learn2reg", data, cases]) == 2
