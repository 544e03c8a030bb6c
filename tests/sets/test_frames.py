# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The frames of a series as files."""

from __future__ import annotations

import os

import pytest
import torch

from monai_locor import InputError
from monai_locor.cohort.folder import CohortFolder
from monai_locor.io import read_image
from monai_locor.sets.frames import FRAMES_FOLDER, _written_frames

from ..phantoms import grid_of

pytest.importorskip("distributed")

GRID, NAMES = grid_of((5, 4, 3)), ["0000", "0001", "0002"]


@pytest.fixture
def write(tmp_path):
    """Write frames in a locked folder; returns when each file was changed."""

    def call(frames, force=False):
        with CohortFolder(tmp_path / "rounds").locked():
            subjects = _written_frames(frames, NAMES, GRID, tmp_path, force)
        for subject, frame in zip(subjects, frames, strict=True):
            assert torch.equal(read_image(subject.image)[0].as_tensor()[0], frame)
        files = sorted((tmp_path / FRAMES_FOLDER).iterdir())
        assert [str(file) for file in files] == [subject.image for subject in subjects]
        changed = [file.stat().st_mtime_ns for file in files]
        for file in files:
            os.utime(file, ns=(10**18, 10**18))
        return changed

    return call


def test_only_frames_that_differ_are_written_again(write, tmp_path):
    frames = torch.rand(3, 5, 4, 3)
    write(frames)
    assert write(frames) == [10**18] * 3
    (tmp_path / FRAMES_FOLDER / "0001.nii").unlink()
    assert [time == 10**18 for time in write(frames)] == [True, False, True]
    frames = frames.clone()
    frames[2] += 1
    assert [time == 10**18 for time in write(frames, force=True)] == [True, True, False]


def test_frames_of_another_series_are_not_replaced(write, tmp_path):
    write(torch.rand(3, 5, 4, 3))
    before = {path: path.read_bytes() for path in (tmp_path / FRAMES_FOLDER).iterdir()}
    with pytest.raises(InputError, match=r"0000.nii is the frame of another series; .*--force"):
        write(torch.rand(3, 5, 4, 3))
    assert {path: path.read_bytes() for path in (tmp_path / FRAMES_FOLDER).iterdir()} == before
