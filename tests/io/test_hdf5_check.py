# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Damaged HDF5 files neither stop nor end this process."""

from __future__ import annotations

import os

import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.geometry import SpatialTransform
from monai_locor.io import hdf5_check, read_transform, write_transform
from monai_locor.io.hdf5_check import check_hdf5

pytest.importorskip("h5py")

ENDS = {
    "while True: pass": "reading it took more than 1 s",
    "import os; os.kill(os.getpid(), 9)": "reading it ended a process with signal 9",
}


@pytest.fixture(params=["a.h5", "a.x5"])
def path(request, tmp_path):
    found = tmp_path / request.param
    write_transform(found, SpatialTransform.of_affine(np.diag([2.0, 1, 1, 1])))
    return found


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
@pytest.mark.parametrize("code", ENDS)
def test_what_happens_to_the_other_process_is_told(monkeypatch, path, code):
    monkeypatch.setattr(hdf5_check, "SECONDS", 1)
    monkeypatch.setattr(hdf5_check, "WALK", code)
    with pytest.raises(InputError, match=rf"{path.name}: is a damaged HDF5 file, {ENDS[code]}"):
        read_transform(path)


def test_a_file_is_checked_when_it_is_new_or_changed(monkeypatch, path):
    run, runs = hdf5_check.subprocess.run, []
    monkeypatch.setattr(hdf5_check.subprocess, "run", lambda *a, **k: runs.append(a) or run(*a, **k))
    for _ in range(2):
        assert read_transform(path).matrix[0, 0] == 2
    assert len(runs) == 1
    path.write_bytes(path.read_bytes() + b"\0")
    check_hdf5(path)
    assert len(runs) == 2


def test_a_program_with_python_inside_is_not_started_again(monkeypatch, path):
    monkeypatch.setattr(hdf5_check.sys, "frozen", True, raising=False)
    monkeypatch.setattr(hdf5_check.subprocess, "run", None)
    check_hdf5(path)


def test_all_objects_are_opened(monkeypatch, path):
    """The other process ends without an error, and without a word."""
    done = []
    run = hdf5_check.subprocess.run
    monkeypatch.setattr(hdf5_check.subprocess, "run", lambda *a, **k: done.append(run(*a, **k)) or done[-1])
    check_hdf5(path)
    assert [(each.returncode, each.stdout, each.stderr) for each in done] == [(0, b"", b"")]
