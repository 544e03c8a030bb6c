# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``register --labels``: the record of the run, and refusals before it."""

from __future__ import annotations

import numpy as np
import pytest

from ..run_schema import valid_run
from .files import REGISTER, load, save


@pytest.fixture
def files(short_folder):
    folder = short_folder
    for name, start in (("a", 2), ("b", 3)):
        labels = np.zeros(load(folder / "fixed.nii.gz").shape, np.int16)
        labels[start : start + 5, 2:8, 2:7] = 5
        save(folder / f"{name}.nii.gz", labels)
    return folder


def test_they_are_recorded_and_repeated(run, files):
    answer = run(*REGISTER, "-o", "out", "--labels", "a.nii.gz", "b.nii.gz", "--label-weight", "2")
    assert answer.code in (0, 1) and "1 labels that drove the registration: mean Dice 0.800 before" in answer.out
    content = valid_run(files / "out" / "run.json")
    assert content["settings"]["label_weight"] == 2 and content["label_dice"]["labels"] == [5]
    assert run("register", "--from", "out/run.json", "-o", "again", "--outputs", "forward").code == answer.code
    assert valid_run(files / "again" / "run.json")["label_dice"] == content["label_dice"]
    fields = [load(files / name / "forward_field.nii.gz") for name in ("out", "again")]
    np.testing.assert_array_equal(*fields)


def test_images_instead_of_labels_are_refused(run, files):
    answer = run(*REGISTER, "-o", "out", "--labels", "fixed.nii.gz", "b.nii.gz")
    assert answer.code == 2 and "labels are whole numbers" in answer.err and not (files / "out" / "run.json").exists()
