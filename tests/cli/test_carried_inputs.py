# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files that ``register`` transforms as well: DICOM series, their names, and those that do not go with the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ..io.dicom_files import AXIAL, SERIES, places, write_series
from .files import REGISTER, save

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
