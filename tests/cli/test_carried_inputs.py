# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files that ``register`` transforms as well: DICOM series, their names, and those that do not go with the images."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import monai_locor

from ..io.dicom_files import AXIAL, SERIES, places, write_series
from .files import AFFINE, REGISTER, SHAPE, save

OTHER = f"{SERIES}.77"


@pytest.fixture
def series(short_folder):
    """A DICOM folder of two series."""
    uids = tuple({"SeriesInstanceUID": uid} for uid in (SERIES + "0", OTHER))
    return write_series(Path("dicom.v2"), places(AXIAL, 4), AXIAL, volumes=uids)


def test_one_series_of_a_folder(run, series, monkeypatch):
    shown = {}
    monkeypatch.setattr("monai_locor.report.html.write_report", lambda path, result, **images: shown.update(images))
    carried = ["--moving-image", f"{series}/{OTHER}", "--fixed-labels", f"{series}/{SERIES}0"]
    answer = run(*REGISTER, "-o", "out", *carried)
    assert answer.code in (0, 1), answer.err
    assert {f"{OTHER}_on_fixed.nii.gz", f"{SERIES}0_on_moving.nii.gz"} <= {path.name for path in Path("out").iterdir()}
    recorded = json.loads(Path("out/run.json").read_text())["carried"]
    assert [each["input"] for each in recorded] == [str(Path(path).absolute()) for path in carried[1::2]]
    answer = run("report", "out")
    assert answer.code == 0 and "is not shown" not in answer.err
    assert shown["fixed_labels"] == [str(Path(carried[3]).absolute())]
    next(series.iterdir()).unlink()
    assert f"fixed labels {Path(carried[3]).absolute()} has changed and is not shown" in run("report", "out").err


def test_a_folder_keeps_its_whole_name(run, series):
    for file in series.iterdir():
        file.unlink()
    write_series(series, places(AXIAL, 4))
    assert run(*REGISTER, "-o", "out", "--moving-image", series).code in (0, 1)
    assert Path("out/dicom.v2_on_fixed.nii.gz").is_file()


def test_inputs_with_the_same_name(refused, series):
    for folder in ("d1", "d2"):
        Path(folder).mkdir()
        save(Path(folder, "m.nii.gz"), np.ones((3, 3, 3), np.float32))
    command = [*REGISTER, "-o", "out", "--moving-image"]
    error = refused(*command, "d1/m.nii.gz", "--moving-image", "d2/m.nii.gz")
    assert "out/m_on_fixed.nii.gz: two outputs have this name; rename one of the inputs d1/m.nii.gz and d2/m.nii.gz" in error
    error = refused(*command, "d1/m.nii.gz", "--moving-labels", "d1/m.nii.gz")
    assert "two outputs have this name; give d1/m.nii.gz once" in error
    Path("again").symlink_to(series)
    assert f"rename one of the inputs dicom.v2/{OTHER} and again/{OTHER}" in refused(
        *command, series / OTHER, "--moving-image", f"again/{OTHER}"
    )


@pytest.fixture
def idle(monkeypatch):
    """No registration may start."""

    def register(*images, **options):
        pytest.fail("the registration has started")

    monkeypatch.setattr(monai_locor, "register", register)


def vectors(path: str) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((*SHAPE, 1, 3), np.float32), AFFINE)
    image.header.set_intent("vector")
    nib.save(image, path)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_what_cannot_be_transformed_is_refused_before_the_work(refused, short_folder, role):
    Path("flat.csv").write_text("x,y\n0,10\n2,14\n")
    Path("points.txt").write_text("x,y,z\n0,10,5\n")
    save(Path("slice.nii.gz"), np.ones((*SHAPE[:2], 1), np.int16))
    vectors("vectors.nii.gz")
    for kind, file, message in (
        ("points", "flat.csv", "points flat.csv: is 2-D, the transform 3-D; give those of one pair"),
        ("points", "points.txt", "points points.txt: the name must end in .csv,"),
        ("labels", "slice.nii.gz", "labels slice.nii.gz: is 2-D, the transform 3-D"),
        ("image", "slice.nii.gz", "slice.nii.gz: is 2-D, the transform 3-D"),
        (
            "image",
            "vectors.nii.gz",
            "(intent vector), which the transform would have to rotate; select one component with --channel of apply",
        ),
    ):
        words = ("-n", "linear") if kind == "image" else ()
        assert message in refused(*REGISTER, "-o", "out", f"--{role}-{kind}", file, *words)
        assert not list(Path("out").glob("*"))


@pytest.mark.usefixtures("idle")
def test_slices_of_other_planes_are_refused_before_the_work(refused, short_folder):
    data = np.random.default_rng(0).random((*SHAPE[:2], 1), np.float32)
    turned = AFFINE[:, [0, 2, 1, 3]]
    for name, affine in (("a.nii.gz", AFFINE), ("b.nii.gz", AFFINE), ("turned.nii.gz", turned)):
        save(Path(name), data, affine)
    words = ["register", "a.nii.gz", "b.nii.gz", *REGISTER[3:], "-o", "out", "--moving-image", "turned.nii.gz"]
    assert "image turned.nii.gz and the output grid are slices in planes 90 degrees apart" in refused(*words)
