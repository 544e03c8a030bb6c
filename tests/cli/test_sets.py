# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The commands that build templates and midpoints, and align series."""

from __future__ import annotations

import pytest

from monai_locor.sets import Series, Subject, Template

pytest.importorskip("distributed")

ROWS = [
    {"id": "a", "state": "done", "verdict": "PASS", "error": ""},
    {"id": "b", "state": "done", "verdict": "WARN", "error": ""},
]
ROUNDS = [{"shift_mm": 0.0}, {"shift_mm": 1.25}, {"shift_mm": 0.1}]
MACHINE = ("--workers", 2, "--timeout", 60, "--threads", 1, "--device", "cpu", "--seed", 4, "--force")
OF_MACHINE = {
    **{"workers": 2, "timeout": 60.0, "threads": 1, "device": "cpu", "seed": 4, "force": True},
    **{"scheduler": None, "thresholds": None, "progress": False},
}


@pytest.fixture
def asked(monkeypatch):
    """The arguments of the set, instead of registrations, and its rows."""
    found: dict = {"rows": ROWS}

    def build(kind, **more):
        def function(first, output, **options):
            found.update(options, first=first)
            if not found["rows"]:
                raise KeyboardInterrupt
            return kind(output, {"": output / "template.nii.gz"}, "", found.pop("rows"), ROUNDS, **more)

        return function

    for name in ("template", "longitudinal"):
        monkeypatch.setattr(f"monai_locor.sets.{name}", build(Template), raising=False)
    monkeypatch.setattr("monai_locor.sets.series", build(Series), raising=False)
    return found


def test_options_reach_the_template(run, asked, folder, tmp_path):
    (folder / "heads.csv").write_text("id,image,contrast\nb,moving.nii.gz,T1\na,fixed.nii.gz,FLAIR\n")
    words = ["--preset", "fast", "--outputs", "affine, forward", "--reference", "T1", "--voxel-size", 1.5, "--rounds", 4]
    answer = run("template", folder / "heads.csv", "-o", tmp_path / "out", *words, "--no-sharpening", *MACHINE)
    assert answer.code == 0 and answer.out.startswith("2 images: 1 PASS, 1 WARN\n")
    assert "mean shift of the template in each round: 1.25, 0.1 mm" in answer.out
    subjects = asked.pop("first")
    assert subjects[0] == Subject("a", str(folder / "fixed.nii.gz"), "FLAIR") and subjects[1].id == "b"
    assert asked.pop("preset").stages[0].iterations == 50
    about = {"outputs": ["affine", "forward"], "reference": "T1", "voxel_size": 1.5, "rounds": 4, "sharpen": False}
    assert asked == {**about, **OF_MACHINE}


def test_visits_by_name_and_by_list(run, asked, folder, tmp_path):
    words = ("-o", tmp_path / "out", "--transform", "rigid")
    assert run("longitudinal", folder / "moving.nii.gz", folder / "fixed.nii.gz", *words).code == 0
    assert [subject.id for subject in asked["first"]] == ["fixed", "moving"]
    assert asked["preset"].transform == "rigid" and asked["rounds"] == 2 and asked["outputs"] is None
    (folder / "visits.csv").write_text("id,image\n2,moving.nii.gz\n1,fixed.nii.gz\n")
    asked["rows"] = [{**ROWS[0], "verdict": "FAIL"}]
    assert run("longitudinal", folder / "visits.csv", *words).code == 1
    assert [subject.id for subject in asked["first"]] == ["1", "2"]


def test_a_series(run, asked, folder, tmp_path):
    words = ("-o", tmp_path / "out", "--mask", folder / "fixed.nii.gz", "-n", "windowed-sinc")
    answer = run("series", folder / "fixed.nii.gz", *words, *MACHINE)
    assert answer.code == 0 and str(asked.pop("first")).endswith("fixed.nii.gz")
    config = asked.pop("preset")
    assert config.transform == "rigid" and config.stages[0].iterations == 50
    about = {
        "outputs": None,
        "rounds": 2,
        "mask": str(folder / "fixed.nii.gz"),
        "transform": "rigid",
        "interpolation": "lanczos",
    }
    assert asked == {**about, **OF_MACHINE}
    asked["rows"] = []
    answer = run("series", folder / "fixed.nii.gz", *words)
    assert answer.code == 130 and "run the same command again to continue" in answer.out
