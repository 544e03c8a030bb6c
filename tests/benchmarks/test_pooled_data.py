# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The datalist of a network trained on all images whose licenses allow it."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from monai_locor.data.training_pairs import training_pairs

from .cases import scripts


@pytest.fixture
def script(monkeypatch):
    """The script, imported as the interpreter does when it runs it."""
    return scripts(monkeypatch, "pooled_data").pooled_data


@pytest.fixture
def data(script, tmp_path):
    """Small images with the names that the script reads."""
    names = [name for fixed, moving, _ in script.OTHERS.values() for name in (fixed, moving)]
    for number in range(1, 13):
        names += [f"nichart/Subj{number:02d}_{part}" for part in ("T1", "FLAIR", "labels", "labels_on_flair")]
    values = np.arange(10 * 11 * 12, dtype=np.float32).reshape(10, 11, 12)
    values[:2] = 0
    for name in {*names}:
        path = tmp_path / "data" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.diag([3.0, 3, 3, 1])), path)
    return tmp_path / "data"


def test_the_list_can_be_trained_on(script, data, tmp_path):
    out = tmp_path / "out"
    script.main([str(data), "--output", str(out)])
    pairs = training_pairs(out / "pooled.json", "training", "all")
    assert len(pairs) == 19 * 19
    masked = next(pair for pair in pairs if pair["name"] == "openms_flair_t1_to_clinical1_flair_t1")
    assert "moving_mask" in masked and "fixed_mask" not in masked
    mask = np.asanyarray(nib.load(masked["moving_mask"]).dataobj)
    assert not mask[:2].any() and mask[2:].all()


def test_test_subjects_and_images_under_the_gpl_are_left_out(script, data, tmp_path):
    script.main([str(data), "--output", str(tmp_path / "out")])
    content = json.loads((tmp_path / "out" / "pooled.json").read_text())
    text = json.dumps(content)
    assert "avg" not in text and not any(f"Subj{number:02d}" in text for number in range(9, 13))
    trained = json.dumps(content["training"])
    assert not any(item[role] in trained for item in content["validation"] for role in ("fixed", "moving"))
