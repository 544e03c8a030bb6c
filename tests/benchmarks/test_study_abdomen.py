# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Learn2Reg abdomen MR-CT: both layouts, the masks of every case, overlap inside the MR's foreground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from studies import AbdomenMRCT

from monai_locor.data.study_case import read_case, write_case
from monai_locor.geometry import Grid

from .study_folders import GRID, SHAPE, intensities, organs, refusal, save, shifted, slow_dice, voxels

pytest.importorskip("scipy")
MR, CT = (50, 100, 150, 200, 250), (20, 60, 100, 140, 180)


def prepare(folder: Path, case: str = "0012", new: bool = False, faint: bool = False) -> Path:
    """One case; the organs of the CT lie one voxel further along the first axis."""
    for modality, channel, shift, values, air in (("MR", 0, (0, 0, 0), MR, 0), ("CT", 1, (1, 0, 0), CT, -1024)):
        labels = organs(shift)
        image = intensities(labels, values, air)
        if faint:
            image[:, :, 2] = air + 0.5 if modality == "CT" else image[:, :, 2]
        roi = np.zeros(SHAPE)
        roi[:, :9] = 1
        for kind, home, data in (("img", "images", image), ("seg", "labels", labels), ("mask", "masks", roi)):
            old = folder / ("L2R_Task1_MRCT/Train" if kind == "mask" else "Train") / f"{kind}{case}_tcia_{modality}.nii.gz"
            path = folder / f"{home}Tr" / f"AbdomenMRCT_{int(case) // 2:04d}_{channel:04d}.nii.gz"
            save(path if new else old, data)
    return folder


def slow_erosion(mask: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        padded = np.pad(mask, 1)
        inner = tuple(slice(1, -1) for _ in mask.shape)
        mask = padded[inner] & np.all(
            [np.roll(padded, step, axis)[inner] for axis in range(mask.ndim) for step in (-1, 1)], axis=0
        )
    return mask


def test_splits_are_the_paper_s():
    splits = AbdomenMRCT.splits
    assert splits["validation"] == ("0012", "0014", "0016") and splits["test"] == ("0002", "0004", "0008", "0010")
    assert sorted(sum(splits.values(), ())) == [f"{n:04d}" for n in range(2, 17, 2)]


@pytest.mark.parametrize(("case", "erosions"), [("0012", (1, 1)), ("0010", (3, 1)), ("0014", (4, 1))])
@pytest.mark.parametrize("masks", ["foreground", "roi", "none"])
def test_masks(tmp_path, case, erosions, masks):
    loaded = AbdomenMRCT(prepare(tmp_path, case, faint=True), masks=masks).load(case)
    images = [voxels(tmp_path / "Train" / f"img{case}_tcia_{modality}.nii.gz") for modality in ("MR", "CT")]
    expected = [slow_erosion(images[0] > 0, erosions[0]), slow_erosion(images[1] > (-1023 if case == "0010" else -1024), 1)]
    assert np.array_equal(loaded.evaluation_mask[0].numpy(), expected[0])
    if masks == "none":
        assert loaded.fixed_mask is None and loaded.moving_mask is None
        return
    if masks == "roi":
        expected = [mask & (np.arange(SHAPE[1]) < 9)[None, :, None] for mask in expected]
    assert np.array_equal(loaded.fixed_mask[0].numpy(), expected[0])
    assert np.array_equal(loaded.moving_mask[0].numpy(), expected[1])
    assert expected[0].any() and expected[1].any()


@pytest.mark.parametrize("masks", ["foreground", "roi"])
def test_both_layouts_hold_the_same(tmp_path, masks):
    first = AbdomenMRCT(prepare(tmp_path / "old"), masks).load("0012")
    second = AbdomenMRCT(prepare(tmp_path / "new", new=True), masks).load("0012")
    for part in ("fixed", "moving", "fixed_mask", "moving_mask", "evaluation_mask", "fixed_labels", "moving_labels"):
        assert torch.equal(getattr(first, part), getattr(second, part)), part
    assert np.array_equal(Grid.of(first.fixed).affine, GRID)


def test_overlap_counts_inside_the_foreground_only(tmp_path):
    case = AbdomenMRCT(prepare(tmp_path)).load("0012")
    case.evaluation_mask[:, 6:] = 0  # labels 2 and 4 are gone, 1 and 3 are cut
    fixed, moving = (labels[0].numpy() for labels in (case.fixed_labels, case.moving_labels))
    found = AbdomenMRCT.score(case, None)
    inside = case.evaluation_mask[0].numpy() > 0
    expected = {f"dice_{n}": slow_dice(fixed * inside, moving * inside, i) for i, n in ((1, "liver"), (3, "right_kidney"))}
    assert {key: value for key, value in found.items() if key.startswith("dice_")} == pytest.approx(expected)
    assert found["dice"] == pytest.approx(np.mean(list(expected.values()))) and found["score"] == -found["dice"]
    assert 0 < found["dice"] < 1 and found["hd95"] == found["hd100"] == 1  # voxels
    assert found["ndv_percent"] == 0 and found["det_std"] == pytest.approx(0, abs=1e-6)


def test_the_right_displacement_scores_perfectly(tmp_path):
    case = AbdomenMRCT(prepare(tmp_path)).load("0012")
    before, after = AbdomenMRCT.score(case, None), AbdomenMRCT.score(case, shifted((1, 0, 0)))
    assert after["dice"] == 1 > before["dice"] and after["hd100"] == 0 < before["hd100"]
    assert before == AbdomenMRCT.score(case, torch.zeros(3, *SHAPE))


def test_an_organ_that_is_lost_scores_zero(tmp_path):
    case = AbdomenMRCT(prepare(tmp_path)).load("0012")
    case.moving_labels[case.moving_labels == 4] = 9
    found = AbdomenMRCT.score(case, shifted((1, 0, 0)))
    assert found["dice_left_kidney"] == 0 and found["dice"] == pytest.approx(0.75) and found["hd95"] == 0


@pytest.mark.parametrize("masks", ["foreground", "none"])
def test_a_case_folder_keeps_all_that_is_scored(tmp_path, masks):
    case = AbdomenMRCT(prepare(tmp_path), masks).load("0012")
    write_case(tmp_path / "case", case)
    assert (tmp_path / "case" / "fixed_mask.nii.gz").exists() == (masks != "none")
    again = read_case(tmp_path / "case")
    assert (again.study, again.name, again.about) == ("abdomen", "0012", {"masks": masks})
    torch.testing.assert_close(again.moving.as_tensor(), case.moving.as_tensor())
    u = shifted((0.4, 0.3, 0))
    assert AbdomenMRCT.score(again, u) == pytest.approx(AbdomenMRCT.score(case, u))


def test_errors_name_the_file_and_the_remedy(tmp_path):
    study = AbdomenMRCT(prepare(tmp_path))
    assert "no such folder" in refusal(AbdomenMRCT, tmp_path / "none") and "choose from" in refusal(AbdomenMRCT, tmp_path, "x")
    assert "validation, test, dropped" in refusal(study.names, "train")
    assert "no case '0013'" in refusal(study.load, "0013")
    message = refusal(study.load, "0014")
    assert "img0014_tcia_MR.nii.gz is missing (and 3 more)" in message and "learn2reg.grand-challenge.org" in message
    roi = AbdomenMRCT(tmp_path, masks="roi")
    roi.files("0012")["moving_roi"].unlink()
    assert "mask0012_tcia_CT.nii.gz is missing;" in refusal(roi.load, "0012") and study.load("0012")
    save(study.files("0012")["fixed_labels"], np.zeros((3, 4, 5)))
    assert "do not lie on the grid" in refusal(study.load, "0012")
    save(study.files("0012")["fixed_labels"], np.zeros(SHAPE))
    assert "hold none of" in refusal(AbdomenMRCT.score, study.load("0012"), None)
    with pytest.raises(ValueError, match="displacement"):
        AbdomenMRCT.score(study.load("0012"), torch.zeros(3, 2, 2, 2))


def test_case_folders_that_are_broken(tmp_path):
    case = AbdomenMRCT(prepare(tmp_path)).load("0012")
    folder = write_case(tmp_path / "case", case)
    (folder / "mask.nii.gz").unlink()
    assert "has no evaluation_mask" in refusal(AbdomenMRCT.score, read_case(folder), None)
    (folder / "case.json").write_text("[]")
    assert "names no study" in refusal(read_case, folder)
    (folder / "case.json").write_text("{")
    assert "no valid case.json" in refusal(read_case, folder)


@pytest.mark.slow
def test_real_organs(shared, tmp_path):
    """The organs of two patients, renumbered: thin slabs on grids of their own."""
    import nibabel as nib

    renumbered = {1: 2, 2: 3, 3: 4, 5: 1}  # TotalSegmentator's spleen, kidneys and liver
    for modality in ("MR", "CT"):
        image, labels = (nib.load(shared / "data" / f"abdomen_{modality}{end}.nii.gz") for end in ("", "_labels"))
        table = np.zeros(256, dtype=np.uint8)
        table[list(renumbered)] = list(renumbered.values())
        save(tmp_path / "Train" / f"img0002_tcia_{modality}.nii.gz", np.asarray(image.dataobj), image.affine)
        organs = table[np.asarray(labels.dataobj).astype(int)]
        save(tmp_path / "Train" / f"seg0002_tcia_{modality}.nii.gz", organs, labels.affine)
    case = AbdomenMRCT(tmp_path).load("0002")
    found = AbdomenMRCT.score(case, None)
    assert 0 <= found["dice"] < 0.9 and found["score"] == -found["dice"]
    assert 0.2 < case.evaluation_mask.as_tensor().float().mean() < 1
