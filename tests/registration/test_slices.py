# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Slices of any plane are registered as those in the x-y plane are, and what is written lies where they lie."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_locor import register
from monai_locor.errors import InputError
from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import read_displacement_field, read_transform
from monai_locor.io.lps import affine_of_itk

FAST = {"stages": [{"factor": 2, "iterations": 3}, {"factor": 1, "iterations": 3, "spacing": 8}]}
AXIAL = np.array([[-1.5, 0, 0, 20], [0, 2, 0, -30], [0, 0, 4, 3], [0, 0, 0, 1.0]])
SAGITTAL, CORONAL = AXIAL[[2, 0, 1, 3]], AXIAL[[0, 2, 1, 3]]
C = np.sqrt(0.5)
TILTED = np.array([[1, 0, 0, 0], [0, C, -C, 0], [0, C, C, 0], [0, 0, 0, 1]]) @ AXIAL


def pair() -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).normal(size=(40, 36))
    image = ndimage.gaussian_filter(noise, 2)[4:36, 4:32]
    return image.astype(np.float32), -np.roll(image, 1, 0).astype(np.float32)


def placed(affine: np.ndarray) -> list[MetaTensor]:
    return [MetaTensor(torch.from_numpy(image)[None], affine=torch.from_numpy(affine)) for image in pair()]


def registered(affine: np.ndarray):
    return register(*placed(affine), preset={**FAST, "multistart": "never"}, progress=False, device="cpu")


@pytest.fixture(scope="module")
def axial():
    return registered(AXIAL)


@pytest.mark.parametrize("affine", [SAGITTAL, CORONAL, TILTED], ids=["sagittal", "coronal", "tilted"])
def test_the_plane_does_not_matter(axial, affine, tmp_path):
    result = registered(affine)
    exact = 0 if affine is not TILTED else 1e-3
    np.testing.assert_allclose(result.forward_mm.numpy(), axial.forward_mm.numpy(), atol=exact)
    np.testing.assert_allclose(result.affine, axial.affine, atol=exact)
    np.testing.assert_allclose(result.warped_moving.affine, affine, atol=1e-12)
    result.save(tmp_path)
    for name in ("warped.nii.gz", "forward_field.nii.gz", "inverse_field.nii.gz"):
        np.testing.assert_allclose(nib.load(tmp_path / name).affine, affine, atol=1e-5)
    assert nib.load(tmp_path / "warped.nii.gz").shape == (32, 28, 1)
    field, grid = read_displacement_field(tmp_path / "forward_field.nii.gz")
    np.testing.assert_allclose(grid.affine, result.fixed_grid.affine, atol=1e-5)
    moving = placed(affine)[1]
    again = SpatialTransform.of_field(field, grid).warp(moving, Grid.of(moving), grid)
    np.testing.assert_allclose(again.numpy(), result.warped_moving.numpy(), atol=1e-4)
    assert read_transform(tmp_path / "affine.tfm").dims == 2
    seen = result.to_sitk("warped_moving")
    np.testing.assert_allclose(affine_of_itk(seen.GetDirection(), seen.GetSpacing(), seen.GetOrigin()), affine, atol=1e-6)
    np.testing.assert_allclose(result.to_nibabel("warped_moving").affine, affine, atol=1e-5)


def test_slices_of_different_planes_are_refused():
    (fixed, _), (_, moving) = placed(SAGITTAL), placed(CORONAL)
    with pytest.raises(InputError, match=r"fixed image .*moving image.* planes 90 degrees apart; give slices of one plane"):
        register(fixed, moving, preset=FAST, progress=False, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1])
def test_a_slice_along_another_axis_is_warned_of(axis, caplog):
    images = [torch.from_numpy(image)[None].unsqueeze(1 + axis) for image in pair()]
    with caplog.at_level(logging.WARNING):
        result = register(*images, preset=FAST, progress=False, device="cpu")
    assert "fixed image: has one voxel along an axis" in caplog.text and "store it as (X, Y, 1)" in caplog.text
    assert result.verdict.status != "PASS"
