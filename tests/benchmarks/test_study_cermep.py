# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""CERMEP head MR-CT: body mask, error against the pseudo-CT, folders as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from studies import CERMEP, body_mask

from monai_locor.data.study_case import read_case, write_case

from .study_folders import GRID, SHAPE, refusal, save, shifted

ndimage = pytest.importorskip("scipy.ndimage")
ARCHIVE = Path("home/pool/DM/TEP/CERMEP_MXFDG/BASE/DATABASE_SENT/ALL")
CT_GRID = np.array([[0, 0, 3.0, -30], [2.5, 0, 0, -20], [0, 2.0, 0, -22], [0, 0, 0, 1]])
CT_SHAPE = (17, 24, 21)


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def head(points: np.ndarray) -> np.ndarray:
    """T1-like: a bright ellipsoid with a dark hole."""
    radius = np.linalg.norm(points / np.array([16, 14, 17]), axis=-1)
    return np.where(radius < 0.3, 5, np.where(radius < 1, 100 + points[..., 0], 3))


def hounsfield(points: np.ndarray) -> np.ndarray:
    return 40 * points[..., 0] - 20 * points[..., 1] + 10 * points[..., 2]  # linear, as is its interpolation


def prepare(folder: Path, subject: str = "sub-0004", pseudo: Path | None = None) -> Path:
    t1, ct = world(GRID, SHAPE), world(CT_GRID, CT_SHAPE)
    save(folder / subject / "anat" / f"{subject}_T1w.nii.gz", head(t1))
    save(folder / subject / "ct" / f"{subject}_ct.nii.gz", hounsfield(ct), CT_GRID)
    affine = np.diag([1.0, 1, 1, 1])  # the network's, not the T1's
    save((pseudo or folder) / subject / f"{subject}_predicted.nii.gz", hounsfield(t1) + 30, affine)
    return folder


def ball(radius: int, dims: int = 3) -> np.ndarray:
    offsets = np.indices((2 * radius + 1,) * dims) - radius
    return np.sqrt((offsets**2).sum(0)) <= radius + 0.5


def slow_body_mask(image: np.ndarray, threshold: float, dilation: int) -> np.ndarray:
    """With SciPy's operators and explicit balls."""
    mask = ndimage.median_filter(image / np.quantile(image, 0.99), size=3) > threshold
    mask = ndimage.binary_erosion(mask, ball(1), border_value=1)
    mask = ndimage.binary_dilation(mask, ball(1))
    parts, count = ndimage.label(mask)
    mask = parts == 1 + np.argmax([(parts == n + 1).sum() for n in range(count)])
    mask = ndimage.binary_dilation(np.pad(mask, 8), ball(8))
    mask = ndimage.binary_erosion(mask, ball(8), border_value=1)[(slice(8, -8),) * image.ndim]
    parts, count = ndimage.label(~mask)
    mask = parts != 1 + np.argmax([(parts == n + 1).sum() for n in range(count)])
    return ndimage.binary_dilation(mask, ball(dilation)) if dilation else mask


def test_splits_are_the_paper_s():
    assert CERMEP.splits["validation"] == ("sub-0004", "sub-0005", "sub-0008")
    assert len(CERMEP.splits["test"]) == 34 and len(set(sum(CERMEP.splits.values(), ()))) == 37


@pytest.mark.parametrize(("threshold", "dilation"), [(0.1, 2), pytest.param(0.05, 0, marks=pytest.mark.slow)])
def test_body_mask_equals_a_slow_one(threshold, dilation):
    rng = np.random.default_rng(1)
    image = 10 * ndimage.gaussian_filter(rng.standard_normal((22, 21, 20)), 2.5).clip(0)
    image[:, :, :8] = rng.random((22, 21, 8)) * 0.02
    image[2:5, 2:5, 1:5] = 3  # a part that is not the largest
    image += 0.01
    found = body_mask(MetaTensor(torch.from_numpy(image)[None], affine=torch.eye(4)), threshold, dilation)
    expected = slow_body_mask(image, threshold, dilation)
    assert found.dtype == torch.uint8 and np.array_equal(found[0].numpy(), expected)
    assert 0.1 < expected.mean() < 0.9


def test_body_mask_is_whole_and_has_no_holes():
    image = MetaTensor(torch.from_numpy(head(world(GRID, SHAPE)))[None], affine=torch.from_numpy(GRID))
    mask = body_mask(image, 0.1)
    radius = np.linalg.norm(world(GRID, SHAPE) / [16, 14, 17], axis=-1)
    assert bool(mask[0].numpy()[radius < 0.9].all()) and not mask[0].numpy()[radius > 1.05].any()
    grown = body_mask(image, 0.1, 2)
    assert np.array_equal(grown[0].numpy() > 0, ndimage.binary_dilation(mask[0].numpy() > 0, ball(2)))
    assert "99 % quantile is" in refusal(body_mask, MetaTensor(torch.zeros(1, 5, 5, 5)), 0.1)
    dots = torch.zeros(1, 8, 8, 8)
    dots[:, ::4, ::4, ::4] = 1
    assert "nothing is left" in refusal(body_mask, MetaTensor(dots), 0.1)


def test_error_is_measured_on_the_mr_inside_the_body(tmp_path):
    case = CERMEP(prepare(tmp_path)).load("sub-0004")
    assert case.fixed_mask is None and case.moving_mask is None
    found = CERMEP.score(case, None)
    assert found["mae_hu"] == pytest.approx(30, rel=1e-4) and found["score"] == found["mae_capped_hu"] == found["mae_hu"]
    u = shifted((0.5, 0, 0))  # 1 mm to the left: 40 HU less
    assert CERMEP.score(case, u)["mae_hu"] == pytest.approx(70, rel=1e-4)
    assert CERMEP.score(case, -u)["mae_hu"] == pytest.approx(10, rel=1e-4)
    far = CERMEP.score(case, shifted((0, 0, 40)))  # nothing there: 0 HU
    target = hounsfield(world(GRID, SHAPE)) + 30
    assert far["mae_hu"] == pytest.approx(np.abs(target[case.evaluation_mask[0].numpy() > 0]).mean(), rel=1e-4)
    assert far["mae_hu"] > 120 == far["score"] == far["mae_capped_hu"]


def test_archive_and_pseudo_ct_may_lie_elsewhere(tmp_path):
    prepare(tmp_path / "data" / ARCHIVE, pseudo=tmp_path / "made")
    case = CERMEP(tmp_path / "data", tmp_path / "made").load("sub-0004")
    flat = save(tmp_path / "flat" / "sub-0004_predicted.nii.gz", case.target[0].numpy())
    again = CERMEP(tmp_path / "data", flat.parent).load("sub-0004")
    assert torch.equal(again.target, case.target) and torch.allclose(again.target.affine, case.fixed.affine)
    folder = write_case(tmp_path / "case", case)
    assert CERMEP.score(read_case(folder), None) == pytest.approx(CERMEP.score(case, None))


def test_errors_name_the_file_and_the_remedy(tmp_path):
    study = CERMEP(prepare(tmp_path))
    assert "no such folder" in refusal(CERMEP, tmp_path / "no") and "pseudo-CTs" in refusal(CERMEP, tmp_path, tmp_path / "no")
    message = refusal(study.load, "sub-0001")
    assert "sub-0001_T1w.nii.gz is missing (and 2 more)" in message and "requested from the authors" in message
    study.files("sub-0004")["target"].unlink()
    assert "sub-0004_predicted.nii.gz is missing; " in refusal(study.load, "sub-0004")
    save(study.files("sub-0004")["target"], np.random.rand(4, 5, 6))
    assert "(4, 5, 6) voxels, the T1 (20, 18, 16)" in refusal(study.load, "sub-0004")


@pytest.mark.slow
def test_real_heads(shared, tmp_path):
    """Templates of MR and CT; the CT itself, on the MR's voxels, stands for the pseudo-CT."""
    import nibabel as nib

    subject = "sub-0001"
    t1, ct = (nib.load(shared / "data" / f"head_{name}.nii.gz") for name in ("T1", "CT"))
    save(tmp_path / subject / "anat" / f"{subject}_T1w.nii.gz", t1.get_fdata(), t1.affine)
    save(tmp_path / subject / "ct" / f"{subject}_ct.nii.gz", ct.get_fdata(), ct.affine)
    save(tmp_path / subject / f"{subject}_predicted.nii.gz", ct.get_fdata(), t1.affine)
    case = CERMEP(tmp_path).load(subject)
    assert 0.4 < case.evaluation_mask.as_tensor().float().mean() < 0.8
    away = CERMEP.score(case, shifted((3, 0, 0), t1.affine, t1.shape))
    assert CERMEP.score(case, None)["mae_hu"] < 0.2 * away["mae_hu"]
