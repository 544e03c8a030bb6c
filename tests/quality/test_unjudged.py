# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A run in which nothing could be judged, or of which something was to be warned, does not pass."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig, RegistrationResult, register
from monai_locor.geometry import Grid
from monai_locor.registration import Stage
from monai_locor.registration.similarity import SIMILARITIES
from monai_locor.report import judge

from ..parameters import mostly_slow
from ..phantoms import image
from ..report.results import GRID, GRID_2D, aligned, result_with, shift

STEPS = RegistrationConfig(stages=(Stage(2, 3), Stage(2, 3, 4)), multistart="never", intersubject="never")


def box(grid: Grid, *slices: slice) -> MetaTensor:
    values = torch.zeros(grid.shape)
    values[slices] = 1
    return image(values.numpy(), grid)


def few(grid: Grid, count: int) -> MetaTensor:
    values = torch.zeros(grid.shape)
    values.view(-1)[values.numel() // 2 : values.numel() // 2 + count] = 1
    return image(values.numpy(), grid)


def run(fixed: MetaTensor, moving: MetaTensor, **options) -> RegistrationResult:
    return register(fixed, moving, preset=STEPS, device="cpu", progress=False, **options)


def statuses(result: RegistrationResult) -> dict[str, str]:
    assert result.verdict is not None
    return {reason.check: reason.status for reason in result.verdict.reasons}


HALF, OTHER = slice(0, 44), slice(52, None)


class TestNothingToJudge:
    @pytest.mark.parametrize("similarity", mostly_slow(SIMILARITIES))
    @pytest.mark.parametrize(
        "masks",
        [
            {"fixed_mask": few(GRID_2D, 1)},
            {"moving_mask": few(GRID_2D, 5)},
            {"fixed_mask": few(GRID_2D, 30), "moving_mask": few(GRID_2D, 40)},
            {"fixed_mask": box(GRID_2D, HALF), "moving_mask": box(GRID_2D, OTHER)},  # they do not meet
        ],
        ids=["a voxel", "five voxels", "two small ones", "apart"],
    )
    def test_masks_that_leave_nothing(self, masks, similarity):
        result = run(*aligned(GRID_2D), similarity=similarity, **masks)
        assert result.verdict.status == "FAIL", result.verdict
        assert statuses(result)["voxels"] == "FAIL" and statuses(result)["information gain"] == "WARN"

    @pytest.mark.parametrize("count", [100, 400])
    def test_a_small_mask_is_a_warning(self, count):
        result = run(*aligned(GRID_2D), fixed_mask=few(GRID_2D, count))
        assert statuses(result)["voxels"] == "WARN" and result.verdict.status in ("WARN", "FAIL")

    def test_no_contrast_where_both_images_count(self):
        fixed, moving = (x.clone() for x in aligned(GRID_2D))
        fixed[:, HALF], moving[:, HALF] = -1, 2  # both are constant in the mask
        result = run(fixed, moving, fixed_mask=box(GRID_2D, slice(0, 30)))
        assert result.verdict.status != "PASS" and statuses(result)["information gain"] == "WARN", result.verdict

    def test_fields_of_view_that_are_apart_in_the_end(self):
        far = shift(GRID, 90.0, 0, 0)
        fixed, moving = aligned()
        verdict = judge(result_with(fixed, moving, far), fixed, moving)
        found = {reason.check: reason.status for reason in verdict.reasons}
        assert verdict.status == "FAIL" and found["voxels"] == found["overlap"] == "FAIL" and found["alignment"] == "WARN"

    @pytest.mark.parametrize(("ends", "status"), [((0.0, 0.0), "FAIL"), ((0.5, 0.0), "WARN"), ((0.0, -3.0), "WARN")])
    def test_stages_without_overlap(self, ends, status):
        history = [{"factor": 2.0, "spacing": None, "loss": [1.0, end], "bending": [0.0] * 2, "seconds": 0.1} for end in ends]
        fixed, moving = aligned(GRID_2D)
        verdict = judge(result_with(fixed, moving, history=history), fixed, moving)
        assert {reason.check: reason.status for reason in verdict.reasons}["stages"] == status

    def test_a_loss_of_zero_between_the_same_images_is_right(self):
        history = [{"factor": 2.0, "spacing": None, "loss": [0.0] * 4, "bending": [0.0] * 4, "seconds": 0.1}]
        fixed, _ = aligned(GRID_2D)
        for moving in (fixed, 5 - 2 * fixed):
            assert judge(result_with(fixed, moving, history=history), fixed, moving).status == "PASS"

    def test_thresholds_that_say_never_ask_for_nothing(self):
        fixed, moving = aligned(GRID_2D)
        names = ("valid_voxels", "information_gain", "local_support", "far_contrast", "nmi_shift_ratio")
        never = dict.fromkeys(names, (None, None))
        assert judge(result_with(fixed, moving), fixed, moving, fixed_mask=few(GRID_2D, 9)).status == "FAIL"
        assert judge(result_with(fixed, moving), fixed, moving, never, fixed_mask=few(GRID_2D, 9)).status == "PASS"


class TestWarnings:
    def mask(self, offset: float) -> MetaTensor:
        whole = box(GRID_2D, slice(8, -8), slice(8, -8))
        affine = whole.affine.clone()
        affine[0, 3] += offset
        return MetaTensor(whole.as_tensor(), affine=affine)

    def test_notes_are_kept_and_harm_nothing(self):
        result = run(*aligned(GRID_2D), moving_mask=self.mask(3.0))
        (note,) = result.warnings
        assert "moving mask" in note and "another grid" in note and result.doubts == () and "warning" not in statuses(result)

    def test_a_mask_beside_its_image_is_doubtful(self, tmp_path, caplog):
        result = run(*aligned(GRID_2D), fixed_mask=self.mask(60.0))
        (doubt,) = result.doubts
        assert "fixed mask: only" in doubt and doubt in result.warnings and doubt in caplog.text
        assert statuses(result)["warning"] == "WARN" and doubt in str([r.text for r in result.verdict.reasons])
        again = judge(result, result.fixed_image, result.moving_image)
        assert any(reason.text == doubt for reason in again.reasons)  # also when it is judged anew
        result.save(tmp_path)
        content = json.loads((tmp_path / "run.json").read_text())
        assert content["warnings"] == list(result.warnings) and content["doubts"] == [doubt]

    def test_what_was_warned_of_when_a_file_was_read(self, tmp_path):
        fixed, moving = aligned(GRID_2D)
        paths = self.file(tmp_path / "f.nii.gz", fixed, False), self.file(tmp_path / "m.nii.gz", moving, True)
        result = run(*paths)
        assert len(result.doubts) == 1 and "m.nii.gz: sform and qform of its header disagree" in result.doubts[0]
        assert statuses(result)["warning"] == "WARN"
        assert run(paths[0], moving).doubts == ()

    @pytest.mark.parametrize("codes", [(0, 0), (1, 0)])
    def test_a_file_without_a_place_is_doubtful(self, tmp_path, codes):
        fixed, moving = aligned(GRID_2D)
        paths = self.file(tmp_path / "f.nii.gz", fixed, False), self.file(tmp_path / "m.nii.gz", moving, False)
        nifti = nib.load(paths[1])
        nifti.header["sform_code"], nifti.header["qform_code"] = codes
        nib.save(nib.Nifti1Image(np.asarray(nifti.dataobj), None, nifti.header), paths[1])
        result = run(*paths)
        assert any("its place in the world is a guess" in text for text in result.doubts) == (codes == (0, 0))

    def file(self, path: Path, values: MetaTensor, contradicts: bool) -> Path:
        affine = np.eye(4)
        affine[:2, :2], affine[:2, 3] = values.affine.numpy()[:2, :2], values.affine.numpy()[:2, -1]
        nifti = nib.Nifti1Image(values[0].numpy(), affine)
        nifti.set_sform(affine, 1)
        nifti.set_qform(affine + contradicts * np.eye(4, k=3) * 7, 1)
        nib.save(nifti, path)
        return path
