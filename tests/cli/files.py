# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tiny images in files, and the command line run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor.cli import main
from monai_locor.geometry import Grid
from monai_locor.io import write_displacement_field

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (14, 12, 10)
SHIFT = (4.0, 0.0, 0.0)  # mm, RAS, whole voxels: where the moving anatomy lies from the fixed one


SHORT = {"stages": [{"factor": 2, "iterations": 2}, {"factor": 2, "iterations": 2, "spacing": 4}], "multistart": "never"}
REGISTER = ["register", "fixed.nii.gz", "moving.nii.gz", "--config", "short.json", "--device", "cpu", "--outputs", "forward"]


@dataclass(frozen=True)
class Answer:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        found = json.loads(self.out)
        assert isinstance(found, dict) and found["exit_code"] == self.code
        return found


@pytest.fixture
def run(capsys) -> Callable[..., Answer]:
    """Run the command line; words are its arguments."""

    def call(*words: object) -> Answer:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def refused(run) -> Callable[..., str]:
    """Run a command line that must be refused in one line; returns the line."""

    def call(*words: object) -> str:
        answer = run(*words)
        assert answer.code == 2, answer
        assert answer.out == "" and answer.err.count("\n") == 1 and answer.err.startswith("error: ")
        return answer.err

    return call


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A pair whose moving image is the fixed one, inverted and shifted by SHIFT: images, labels, points, field, affine."""
    grid = Grid(SHAPE, AFFINE)
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    blob = np.exp(-((x - 10) ** 2 + (y - 10) ** 2 + (z - 14) ** 2) / 60).astype(np.float32)
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[3:6, 3:8, 3:7], labels[6:8, 3:8, 3:7] = 300, -2
    save(tmp_path / "fixed.nii.gz", blob)
    save(tmp_path / "moving.nii.gz", 2 - np.roll(blob, 2, 0))
    save(tmp_path / "fixed_labels.nii.gz", labels)
    save(tmp_path / "moving_labels.nii.gz", np.roll(labels, 2, 0))
    (tmp_path / "fixed.csv").write_text("x,y,z,label\n8,10,12,a\n10,12,15,b\n")
    (tmp_path / "moving.csv").write_text("x,y,z,label\n14,12,15,b\n12,10,12,a\n")
    field = torch.tensor(SHIFT).reshape(3, 1, 1, 1).expand(3, *SHAPE)
    write_displacement_field(tmp_path / "field.nii.gz", field, grid)
    write_displacement_field(tmp_path / "back.nii.gz", -field, grid)
    return tmp_path


@pytest.fixture
def short_folder(folder, monkeypatch) -> Path:
    """The working directory, with the files that :data:`REGISTER` names."""
    monkeypatch.chdir(folder)
    (folder / "short.json").write_text(json.dumps(SHORT))
    return folder
