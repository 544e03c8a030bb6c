# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The command that writes BIDS derivatives."""

from __future__ import annotations

import pytest

from ..bids.small import write_dataset, write_result

T1, T2 = "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz"


@pytest.fixture
def raw(tmp_path):
    write_dataset(tmp_path / "raw", T1, T2)
    write_result(tmp_path / "out", tmp_path / "raw" / T2, tmp_path / "raw" / T1)
    return tmp_path / "raw"


def test_files_are_written_once(run, refused, raw, tmp_path):
    words = ("derivatives", tmp_path / "out", "-o", raw / "derivatives/monai_locor")
    answer = run(*words, "--json")
    assert answer.code == 0 and answer.json["kept"] == 0 and len(answer.json["written"]) == 3
    assert all(path.startswith(str(raw / "derivatives/monai_locor/sub-01/anat/sub-01_")) for path in answer.json["written"])
    assert run(*words).out.endswith("monai_locor: 0 files written; 3 were there before\n")
    write_result(tmp_path / "other", raw / T2, raw / T1, seed=5)
    words = ("derivatives", tmp_path / "other", "-o", raw / "derivatives/monai_locor")
    assert "is of another registration" in refused(*words)
    assert len(run(*words, "--force", "--json").json["written"]) == 3


def test_pairs_that_are_left_out_are_named(run, raw, tmp_path):
    pairs = tmp_path / "cohort/pairs"
    for name in ("old", "a"):
        write_result(pairs / name, raw / T2, raw / T1)
    (pairs.parent / "summary.csv").write_text("id,state,verdict,attempts\na,done,PASS,1\n")
    words = ("derivatives", pairs.parent, "-o", tmp_path / "d")
    assert run(*words, "--json").json["left_out"] == [str(pairs / "old")]
    assert "left out, because summary.csv does not have them as done: old\n" in run(*words).out


def test_refusals_leave_nothing(refused, raw, tmp_path):
    write_result(
        tmp_path / "out", tmp_path / "raw" / T2, raw / T1, arguments={"fixed": {"path": "a.nii"}, "moving": {"path": "b.nii"}}
    )
    assert "fixed image a.nii: has no name of BIDS" in refused("derivatives", tmp_path / "out", "-o", tmp_path / "new/d")
    assert not (tmp_path / "new").exists()
