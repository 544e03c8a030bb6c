# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Which changes of the inputs of a finished pair are noticed, and which files of a user."""

from __future__ import annotations

import os
import re

import pytest

from monai_locor import InputError
from monai_locor.cohort import CohortPair
from monai_locor.cohort.folder import CohortFolder, changes, signature
from monai_locor.io.paths import WORK_FOLDER

#: a way to name an image: what names it, and a file that holds a part of it
INPUTS = {
    "file": ("image.nii", "image.nii"),
    "folder of a DICOM series": ("study", "study/1.dcm"),
    "one of several DICOM series": ("study/1.2.840.1", "study/1.dcm"),
    "chunk of OME-Zarr": ("image.ome.zarr", "image.ome.zarr/0/1/2/3"),
    "level of OME-Zarr": ("image.ome.zarr/0", "image.ome.zarr/0/1/2/3"),
    "header with data": ("image.mhd", "image.raw"),
    "pair of Analyze files": ("image.hdr", "image.img"),
}
each_input = pytest.mark.parametrize(("name", "part"), INPUTS.values(), ids=INPUTS)


@pytest.fixture
def written(tmp_path):
    """Write the files of all inputs, some time ago."""
    for name in ("study/2.dcm", "image.ome.zarr/.zattrs", "image.mhd", "image.hdr", *(part for _, part in INPUTS.values())):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    return tmp_path


@each_input
def test_a_changed_part_of_an_input_is_noticed(written, name, part):
    path, file = str(written / name), written / part
    record = {"request": {}, "files": {"fixed": {"path": path, "signature": signature(path)}}}
    pair = CohortPair("a", path, path)
    record["files"]["moving"] = record["files"]["fixed"]
    assert changes(record, pair, {}, written / "none") == ""
    file.write_text("another content")
    os.utime(file, ns=(10**18, 10**18))  # a copy that keeps the time
    assert changes(record, pair, {}, written / "none") == f"{path} has changed"
    file.write_text("CONTENT")
    assert changes(record, pair, {}, written / "none") == f"{path} has changed"


@each_input
def test_what_was_only_read_has_not_changed(written, name, part):
    path = str(written / name)
    before = signature(path)
    os.utime(written / part, ns=(2 * 10**18, 10**18))
    assert signature(path) == before and before[0] > 0


#: what a user may have: a file of a name that a cohort writes
USER_FILES = ("settings.json", "summary.csv", "summary.html", "failed/a.json")


@pytest.mark.parametrize("name", USER_FILES)
def test_files_of_the_user_are_refused(tmp_path, name):
    folder = CohortFolder(tmp_path)
    folder.check_replaceable("ab")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("id,verdict\na,good\n")
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path / name))} is not that of a cohort; name another"):
        folder.check_replaceable("ab")


def test_thresholds_are_refused_if_they_would_be_written(tmp_path):
    (tmp_path / "thresholds.json").write_text("{}")
    CohortFolder(tmp_path).check_replaceable("a")
    with pytest.raises(InputError, match=r"thresholds\.json is not that of a cohort"):
        CohortFolder(tmp_path).check_replaceable("a", thresholds=True)


@pytest.mark.parametrize("name", ["pairs", "failed"])
def test_files_in_the_place_of_folders_are_refused(tmp_path, name):
    (tmp_path / name).write_text("a file")
    with pytest.raises(InputError, match=f"{name} is not a folder"):
        CohortFolder(tmp_path).check_replaceable("a")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{WORK_FOLDER}/a.12345678/run.json", "{}"),
        ("summary.csv", "id,state,verdict,reasons,error,seconds,attempts\na,failed,,,no,,\n"),
        ("pairs/z/pair.json", '{"format": "monai_locor cohort pair 0"}'),
    ],
    ids=["killed", "ended", "without its summary"],
)
def test_what_an_earlier_run_wrote_is_known(tmp_path, path, text):
    for name in {*USER_FILES} - {path}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    CohortFolder(tmp_path).check_replaceable("a", thresholds=True)
