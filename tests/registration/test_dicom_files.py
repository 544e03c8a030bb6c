# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The result of two DICOM series as DICOM objects, and series that are spread over folders."""

from __future__ import annotations

import dataclasses

import numpy as np
import pydicom
import pytest

from monai_locor import InputError
from monai_locor.io.dicom import read_dicom
from monai_locor.io.dicom.trees import files_by_series, series_source
from monai_locor.io.transforms import read_transform
from monai_locor.registration.dicom_files import check_dicom_folder, write_dicom

from ..io.dicom_pairs import CT, MR, blob, write_pair, write_volume
from .short_runs import NOTHING, run


def test_objects_of_a_result(tmp_path):
    fixed, moving = write_pair(tmp_path / "in")
    shift = np.eye(4)
    shift[:3, 3] = (4, -2, 0)
    result = run(fixed, moving, NOTHING, initial=shift)
    result = dataclasses.replace(result, verdict=dataclasses.replace(result.verdict, status="WARN"))
    out = tmp_path / "out"
    check_dicom_folder(out)
    registration, *slices = write_dicom(result, out, fixed, moving)
    content, first = pydicom.dcmread(registration), pydicom.dcmread(slices[0])
    assert content.SeriesDescription == content.ContentDescription == "MR head to CT head (WARN)"
    assert first.SeriesDescription == "MR head on CT head (WARN)" and first.FrameOfReferenceUID == CT["FrameOfReferenceUID"]
    points = result.fixed_grid.points().reshape(-1, 3)
    np.testing.assert_allclose(read_transform(registration).points(points), result.transform.points(points), atol=1e-3)
    assert {path.parent for path in slices} == {out / "warped"} and len(slices) == 24
    stored = read_dicom(out / "warped", "warped").voxels[..., 0]
    np.testing.assert_allclose(stored, result.warped_moving[0].numpy(), atol=0.6)
    for taken in (slices[0], registration):
        with pytest.raises(InputError, match="of another registration"):
            write_dicom(result, out, fixed, moving)
        taken.unlink()
        for path in slices:
            path.unlink(missing_ok=True)


def test_a_remark_is_never_cut_off(tmp_path):
    fixed, moving = write_pair(tmp_path, SeriesDescription="x" * 64)
    result = run(fixed, moving, NOTHING)
    content = pydicom.dcmread(write_dicom(result, tmp_path / "out", fixed, moving)[0])
    assert len(content.SeriesDescription) == 64 and content.SeriesDescription.endswith(f"x ({result.verdict.status})")


def test_series_in_a_tree(tmp_path):
    write_volume(tmp_path / "a", blob(np.zeros(3)), **CT)
    write_volume(tmp_path / "b" / "c", blob(np.zeros(3)), **MR)
    (tmp_path / "b" / "notes.txt").write_text("x" * 200, encoding="utf-8")
    found = files_by_series(tmp_path)
    assert {uid: len(files) for uid, files in found.items()} == {CT["SeriesInstanceUID"]: 24, MR["SeriesInstanceUID"]: 24}
    uid = MR["SeriesInstanceUID"]
    scratch = tmp_path / "scratch"
    assert series_source(uid, found[uid], scratch) == tmp_path / "b" / "c" / uid and not scratch.exists()
    whole = read_dicom(tmp_path / "b" / "c", "whole")
    for path in found[uid][::2]:
        path.rename(tmp_path / "b" / path.name)
    spread = series_source(uid, files_by_series(tmp_path)[uid], scratch)
    assert spread.is_relative_to(scratch)
    read = read_dicom(spread, "spread")
    np.testing.assert_array_equal(read.voxels, whole.voxels)
    np.testing.assert_array_equal(read.affine, whole.affine)
    with pytest.raises(InputError, match="is not a folder"):
        files_by_series(tmp_path / "nothing")
