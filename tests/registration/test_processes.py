# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Two processes give the same bytes, whatever the order of their sets and dictionaries and the address of their memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

from monai_locor.cli import main

from ..phantoms import grid_of, pair

GRID = grid_of((22, 20, 18), (4.0, 4.0, 4.0))
OUTPUTS = ("warped.nii.gz", "forward_field.nii.gz", "inverse_field.nii.gz")


def digests(folder: Path, hash_seed: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "monai_locor", "register", "fixed.nii", "moving.nii", "-o", f"out{hash_seed}", *options]
    places = {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **places})
    assert answer.returncode in (0, 1), answer.stderr
    return digests_in(folder / f"out{hash_seed}")


def digests_in(folder: Path) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in OUTPUTS]


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(tmp_path, monkeypatch):
    for name, image in zip(("fixed", "moving"), pair(GRID, GRID)[:2], strict=True):
        nib.save(nib.Nifti1Image(image.numpy()[0], image.affine.numpy()), tmp_path / f"{name}.nii")
    options = ("--preset", "draft", "--set", "multistart=always", "--device", "cpu", "--quiet")
    found = [digests(tmp_path, hash_seed, *options) for hash_seed in ("1", "2")]
    assert found[0] == found[1]
    # the bytes do depend on the run
    again = [*options, "--set", "multistart=never", "--seed", "1"]
    monkeypatch.chdir(tmp_path)
    assert main(["register", "fixed.nii", "moving.nii", "-o", "out", *again]) in (0, 1)
    assert digests_in(tmp_path / "out") != found[0]
