# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Learn2Reg data sets: reading, submissions, the challenge's measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from studies import Learn2Reg, evaluate_submission, write_submission

from monai_locor.data.learn2reg_measures import challenge_measures
from monai_locor.data.study_case import read_case, write_case
from monai_locor.geometry import Grid, apply_affine

from .study_folders import CENTERS, GRID, SHAPE, learn2reg, refusal, save, shifted, slow_dice, voxels

ndimage = pytest.importorskip("scipy.ndimage")
NAMES = ("0001_0000_from_0001_0001", "0002_0000_from_0002_0001")


@pytest.fixture
def dataset(tmp_path: Path) -> Learn2Reg:
    return Learn2Reg(learn2reg(tmp_path / "data"))


def slow_determinant(ddf: np.ndarray) -> np.ndarray:
    """Of ``x + ddf(x)``, ``(3, *S)`` voxels, central differences, without the two outermost voxels."""
    inner = (slice(2, -2),) * 3
    matrix = np.empty((*[n - 4 for n in ddf.shape[1:]], 3, 3))
    for i in range(3):
        for j in range(3):
            matrix[..., i, j] = ((np.roll(ddf[i], -1, j) - np.roll(ddf[i], 1, j)) / 2)[inner] + (i == j)
    return np.linalg.det(matrix)


def rough(amplitude: float) -> np.ndarray:
    """A random displacement, ``(3, *S)`` voxels."""
    noise = np.random.default_rng(2).standard_normal((3, *SHAPE))
    return amplitude * ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))


def mm(ddf: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.tensordot(GRID[:3, :3], ddf, 1)).float()


def test_pairs_of_a_data_set(dataset):
    assert dataset.task == "PhantomMRCT" and dataset.labels == {n: f"organ {n}" for n in CENTERS}
    assert dataset.splits == {"train": NAMES, "val": NAMES[1:]}
    (pair,) = dataset.pairs("val")
    assert pair.fixed == dataset.folder / "imagesTr" / "PhantomMRCT_0002_0000.nii.gz"
    assert pair.moving_files["keypoints"] == dataset.folder / "keypointsTr" / "PhantomMRCT_0002_0001.csv"
    assert sorted(pair.fixed_files) == ["keypoints", "label", "mask"]
    assert pair.displacement == "disp_0002_0002.nii.gz" and pair.name == NAMES[1]
    assert Learn2Reg(dataset.folder).splits == dataset.splits


def test_a_case_has_all_of_it_in_millimeters(dataset):
    case = dataset.load(NAMES[0])
    assert np.array_equal(case.fixed_labels[0].numpy(), voxels(dataset.folder / "labelsTr" / "PhantomMRCT_0001_0000.nii.gz"))
    fixed, moving = case.points["keypoints"]
    assert np.allclose(fixed.numpy(), apply_affine(GRID, np.array(list(CENTERS.values())) + 0.25))
    assert np.allclose((moving - fixed).numpy(), GRID[:3, 0])
    assert case.fixed_mask is not None and 0 < float(case.fixed_mask.as_tensor().mean()) < 1


@pytest.mark.parametrize(
    ("fixed", "moving", "name"),
    [
        ("A_0001_0000", "A_0001_0001", "disp_0001_0001"),
        ("A_0001_0002", "A_0003_0002", "disp_0001_0003"),
        ("A_0011_0001", "A_0011_0000", "disp_0011_0001_0011_0000"),
        ("A_0011_0000", "A_0011_0002", "disp_0011_0000_0011_0002"),
    ],
)
def test_names_of_displacements(tmp_path, fixed, moving, name):
    pairs = [{"fixed": f"./imagesTs/{fixed}.nii.gz", "moving": f"imagesTs/{moving}.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps({"registration_test": pairs, "labels": {"1": "lung"}}))
    study = Learn2Reg(tmp_path)
    assert study.pairs("test")[0].displacement == name + ".nii.gz" and study.labels == {1: "lung"}
    assert refusal(study.load, study.names("test")[0]).endswith("unpack one as a whole")


def test_keypoints_of_several_modalities(tmp_path):
    for folder, value in (("keypoints01Tr", 1), ("keypoints02Tr", 2), ("landmarksTr", 3)):
        for modality in (0, 1, 2):
            path = tmp_path / folder / f"B_0001_{modality:04d}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{value},1,1\n")
    pairs = [{"fixed": f"imagesTr/B_0001_{m:04d}.nii.gz", "moving": "imagesTr/B_0001_0000.nii.gz"} for m in (1, 2)]
    (tmp_path / "dataset.json").write_text(json.dumps({"training_paired_images": pairs}))
    for number, pair in enumerate(Learn2Reg(tmp_path).pairs("train"), 1):
        for files in (pair.fixed_files, pair.moving_files):
            assert files["keypoints"].parent.name == f"keypoints0{number}Tr" and files["landmarks"].parent.name == "landmarksTr"


def test_measures_equal_slow_ones(dataset):
    case, ddf = dataset.load(NAMES[0]), rough(15.0)
    found = challenge_measures(case, mm(ddf))
    fixed, moving = case.fixed_labels[0].numpy(), case.moving_labels[0].numpy()
    warped = ndimage.map_coordinates(moving, np.indices(SHAPE) + ddf, order=0, mode="grid-constant")
    assert found["dice"] == pytest.approx(np.mean([slow_dice(fixed, warped, n) for n in CENTERS])) and 0 < found["dice"] < 1
    points = np.array(list(CENTERS.values())) + 0.25
    shift = np.stack([ndimage.map_coordinates(c, points.T, order=3) for c in ddf], -1)
    error = (points + shift - (points + [1, 0, 0])) * [2, 2, 2.5]
    assert found["tre_keypoints_mm"] == pytest.approx(np.linalg.norm(error, axis=1).mean(), rel=1e-4)
    determinant = slow_determinant(ddf)  # the mask leaves out just these voxels
    assert found["folding_voxels"] == (determinant <= 0).sum() > 0
    assert found["sdlogj"] == pytest.approx(np.log(determinant.clip(1e-9, 1e9)).std(), rel=1e-3)
    assert found["sdlogj_challenge"] == pytest.approx(np.log((determinant + 3).clip(1e-9, 1e9)).std(), rel=1e-3)
    assert found["score"] == -found["dice"] and found["hd95"] > 0 and found["ndv_percent"] > 0


def test_nothing_is_measured_outside_the_mask(dataset):
    case = dataset.load(NAMES[0])
    everywhere = challenge_measures(case, mm(rough(15.0)))
    case.fixed_mask[:, :10] = 0
    half = challenge_measures(case, mm(rough(15.0)))
    folded = slow_determinant(rough(15.0))[8:] <= 0
    assert half["folding_voxels"] == folded.sum() < everywhere["folding_voxels"] and half["dice"] == everywhere["dice"]


def test_a_case_folder_keeps_all_that_is_measured(dataset, tmp_path):
    case = dataset.load(NAMES[0])
    again = read_case(write_case(tmp_path / "case", case))
    assert challenge_measures(again, mm(rough(3.0))) == pytest.approx(challenge_measures(case, mm(rough(3.0))))
    assert torch.equal(again.points["keypoints"][1], case.points["keypoints"][1]) and again.about == case.about
    write_case(tmp_path / "case", dataclasses.replace(case, points={}, fixed_labels=None))
    assert read_case(tmp_path / "case").points == {} and read_case(tmp_path / "case").fixed_labels is None


def test_labels_that_the_moving_image_lacks_do_not_count(dataset):
    case = dataset.load(NAMES[0])
    case.moving_labels[case.moving_labels == 2] = 0
    u = shifted((1, 0, 0))
    found = challenge_measures(case, u)
    assert found["dice"] == 1 and found["hd95"] == 0 and found["tre_keypoints_mm"] == pytest.approx(0, abs=1e-4)
    assert found["sdlogj"] == found["folding_voxels"] == 0
    case.moving_labels[case.moving_labels == 1] = 9
    case.moving_labels[:, 0, 0, 0] = 1  # there, but elsewhere
    assert challenge_measures(case, u)["dice"] == pytest.approx(2 / 3) and challenge_measures(case, u, [3])["dice"] == 1
    assert "dice" not in challenge_measures(case, u, [7])


def test_a_submission_is_in_voxels_and_scores_what_was_written(dataset, tmp_path):
    out = tmp_path / "submission"
    for name, voxel in zip(NAMES, (1.0, 0.5)):
        path = write_submission(out, dataset.load(name), shifted((voxel, 0, 0)))
        stored = nib.load(path)
        assert stored.shape == (*SHAPE, 3) and np.allclose(stored.affine, GRID)
        assert np.allclose(stored.get_fdata(), [voxel, 0, 0], atol=1e-5)
    assert sorted(path.name for path in out.iterdir()) == ["disp_0001_0001.nii.gz", "disp_0002_0002.nii.gz"]
    found = evaluate_submission(dataset, out, "train")
    cases = [found["cases"][name] for name in NAMES]
    assert (
        cases[0]["dice"] == 1 and cases[1]["tre_keypoints_mm"] == pytest.approx(1, abs=1e-4) and found["name"] == dataset.task
    )
    values = [case["dice"] for case in cases]
    expected = {"mean": np.mean(values), "std": np.std(values), "30": np.quantile(values, 0.3)}
    assert found["aggregates"]["dice"] == pytest.approx(expected)
    assert json.loads(json.dumps(found)) == found


def test_grids_of_their_own(dataset, tmp_path):
    """The displacement counts voxels of both images: with the origin elsewhere nothing changes for the challenge."""
    pair = dataset.pair(NAMES[0])
    other = GRID.copy()
    other[:3, 3] += [7, -3, 11]
    for path in (pair.moving, pair.moving_files["label"], pair.moving_files["mask"]):
        save(path, voxels(path), other)
    case = dataset.load(NAMES[0])
    u = shifted((1, 0, 0)) + torch.tensor([7.0, -3, 11]).reshape(3, 1, 1, 1)
    path = write_submission(tmp_path / "out", case, u)
    assert np.allclose(nib.load(path).get_fdata(), [1, 0, 0], atol=1e-4)
    (tmp_path / "out" / "disp_0002_0002.nii.gz").write_bytes(path.read_bytes())
    assert evaluate_submission(dataset, tmp_path / "out", "train")["cases"][NAMES[0]]["dice"] == 1


def test_archives_of_numpy(dataset, tmp_path):
    array = np.zeros((3, *SHAPE), dtype=np.float16)
    array[0] = 1
    path = tmp_path / "disp_0002_0002.npz"
    np.savez(path, array)
    assert evaluate_submission(dataset, tmp_path)["cases"][NAMES[1]]["dice"] == 1
    np.savez(path, array[:, ::3])
    assert str(path) in refusal(evaluate_submission, dataset, tmp_path)
    np.savez(path, np.array([{"a": 1}], dtype=object))
    assert str(path) in refusal(evaluate_submission, dataset, tmp_path)  # reading it would run pickled code


def test_errors_name_the_file_and_the_remedy(dataset, tmp_path):
    assert "disp_0001_0001.nii.gz is missing (and 1 more)" in refusal(evaluate_submission, dataset, tmp_path, "train")
    assert "choose from train, val" in refusal(dataset.pairs, "test")
    assert "has no case" in refusal(dataset.load, "0003_0000_from_0003_0001")
    assert "has none" in refusal(Learn2Reg, tmp_path) and "cannot be read" in refusal(Learn2Reg, tmp_path / "a.json")
    for content, message in (("{", "is not valid JSON"), ("[]", "not a JSON object"), ('{"name": "x"}', "lists no pairs")):
        (tmp_path / "a_dataset.json").write_text(content)
        assert message in refusal(Learn2Reg, tmp_path)
    (tmp_path / "a_dataset.json").write_text('{"registration_val": [["a", "b"]]}')
    assert "not fixed and moving" in refusal(Learn2Reg, tmp_path)
    (tmp_path / "a_dataset.json").write_text('{"registration_val": [{"fixed": "a.nii.gz", "moving": "b.nii.gz"}]}')
    assert "end in _0001_0000.nii.gz" in refusal(Learn2Reg, tmp_path)
    points = dataset.pair(NAMES[0]).fixed_files["keypoints"]
    points.write_text("x,y,z\n1,2,3\n")
    assert f"points {points}: cannot be read" in refusal(dataset.load, NAMES[0])
    points.write_text("1,2\n")
    assert "has 2 columns" in refusal(dataset.load, NAMES[0])
    points.write_text("1,2,3\n")
    assert "1 fixed and 4 moving keypoints" in refusal(challenge_measures, dataset.load(NAMES[0]), None)
    dataset.pair(NAMES[1]).moving_files["label"].unlink()
    assert "PhantomMRCT_0002_0001.nii.gz is missing; " in refusal(dataset.load, NAMES[1])
    assert Grid.of(dataset.load(NAMES[0]).fixed).shape == SHAPE
