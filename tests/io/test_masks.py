# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Masks and label maps that belong to an image: weights and labels up to rounding, and a place where they have none."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from monai_locor.errors import InputError
from monai_locor.geometry import Grid
from monai_locor.io.content_detection import labels_in
from monai_locor.io.images import read_labels, read_mask
from monai_locor.io.masks import mask_on_grid, placed_like

SHAPE = (8, 7, 6)
AFFINE = np.array([[-2.0, 0, 0, 60], [0, 2, 0, -80], [0, 0, 3, 20], [0, 0, 0, 1]])
GRID = Grid(SHAPE, AFFINE)
MASK = np.zeros(SHAPE, np.uint8)
MASK[2:6, 1:5, 2:4] = 1


def without_forms(path):
    nib.save(nib.Nifti1Image(MASK, None), path)


def identity(path):
    nib.save(nib.Nifti1Image(MASK, np.eye(4)), path)


def of_sitk(path):
    sitk.WriteImage(sitk.GetImageFromArray(MASK.T.copy()), str(path))


@pytest.mark.parametrize(
    ("write", "suffix"), [(identity, ".nii"), (without_forms, ".nii.gz"), (of_sitk, ".nrrd"), (of_sitk, ".mha")]
)
def test_files_without_a_place_lie_on_their_image(tmp_path, caplog, write, suffix):
    path = tmp_path / f"mask{suffix}"
    write(path)
    with caplog.at_level(logging.WARNING):
        weight = mask_on_grid(path, "moving", GRID)
    np.testing.assert_array_equal(weight.numpy()[0], MASK)
    assert f"moving mask {path}: has no place in the world; it is taken to lie on the voxels of its image" in caplog.text


@pytest.mark.parametrize(
    "mask",
    [
        *(MASK, MASK[None], MASK > 0),
        *(torch.from_numpy(MASK), torch.from_numpy(MASK)[None], torch.from_numpy(MASK)[None].float()),
        *(MASK.tolist(), (MASK, GRID.affine)),
    ],
    ids=["array", "array with channel", "bool", "tensor", "tensor with channel", "float", "list", "with affine"],
)
def test_arrays_lie_on_their_image_without_a_word(mask, caplog):
    with caplog.at_level(logging.WARNING):
        weight = mask_on_grid(mask, "fixed", GRID)
    np.testing.assert_array_equal(weight.numpy()[0], MASK)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "order", [((0, 1, 2), (True, False, False)), ((1, 0, 2), (False, True, True)), ((2, 1, 0), (True,) * 3)]
)
def test_other_orders_of_the_axes_are_no_missing_place(order):
    """A mask that fills the field of view at identity, of an image that is stored in another order."""
    axes, flips = order
    cube = np.random.default_rng(0).random((6, 6, 6)) > 0.5
    mask = MetaTensor(torch.from_numpy(cube)[None], affine=torch.eye(4))
    weight = mask_on_grid(mask, "fixed", Grid(cube.shape, np.eye(4)).reordered(axes, flips))
    expected = np.flip(cube.transpose(axes), [i for i, flip in enumerate(flips) if flip])
    np.testing.assert_allclose(weight.numpy()[0], expected, atol=1e-6)


def test_a_mask_with_a_place_keeps_it(caplog):
    shifted = AFFINE.copy()
    shifted[0, 3] -= 2  # one voxel on
    mask = MetaTensor(torch.from_numpy(MASK)[None], affine=torch.from_numpy(shifted))
    weight = mask_on_grid(mask, "fixed", GRID)
    np.testing.assert_allclose(weight.numpy()[0], np.roll(MASK, 1, 0))
    assert "is resampled" in caplog.text
    assert placed_like(mask, GRID, "mask") is mask
    other = MetaTensor(torch.ones(1, 3, 3, 3), affine=torch.eye(4))  # no place, but another shape
    assert placed_like(other, GRID, "mask") is other


def test_masks_that_cannot_be_of_the_image(tmp_path):
    with pytest.raises(InputError, match="both must be 2-D or both 3-D"):
        mask_on_grid(MASK[None, 3], "fixed", GRID)
    with pytest.raises(InputError, match="does not meet its image"):
        mask_on_grid(np.ones((1, 3, 3, 3)), "fixed", GRID)
    sagittal = MetaTensor(torch.ones(1, 8, 7), affine=torch.from_numpy(AFFINE[[2, 0, 1, 3]]))
    with pytest.raises(InputError, match="fixed mask and its image are slices in planes 90 degrees apart"):
        mask_on_grid(sagittal, "fixed", Grid.placed((8, 7), AFFINE))


@pytest.mark.parametrize("beyond", [-1e-7, -5e-5, 1.0000001, 1.00005])
def test_weights_that_overshoot_stay_weights(beyond):
    weights = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    weights[0, 0, 0, 0] = beyond
    assert torch.equal(read_mask(weights).as_tensor(), weights.clamp(0, 1))


def test_other_values_are_labels_or_refused():
    mask = torch.tensor([[[0.0, 1, 2], [255, 1e-6, 0]]])
    assert read_mask(mask).as_tensor().tolist() == [[[0, 1, 1], [1, 0, 0]]]
    with pytest.raises(InputError, match=r"negative values down to -0\.00100000005"):
        read_mask(torch.tensor([[[-1e-3, 1.0]]]))
    with pytest.raises(InputError, match="is empty"):
        read_mask(torch.tensor([[[-1e-7, 0.0]]]))


def test_a_mask_of_255_with_a_slope_is_a_mask_of_ones(tmp_path):
    image = nib.Nifti1Image(MASK * 255, AFFINE)
    image.header.set_slope_inter(np.float32(1 / 255), 0)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii").numpy()[0], MASK)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii").numpy()[0], MASK)


@pytest.mark.parametrize("label", [1, 3, 17, 255, 2035, 14175, 1_000_003, -5])
def test_labels_within_rounding_are_labels(label):
    for near in (np.nextafter(np.float32(label), np.float32(-1e9)), np.nextafter(np.float32(label), np.float32(1e9))):
        labels = np.where(MASK, near, np.float32(0))[None]
        np.testing.assert_array_equal(read_labels(labels).numpy()[0], np.where(MASK, label, 0))


@pytest.mark.parametrize("background", [0.0, 3e-5, -4e-5, 1e-4, 1e-3, 0.5])
@pytest.mark.parametrize("label", [2, 1035])
def test_what_looks_like_labels_is_read_as_labels(background, label):
    """So that `apply` without ``--labels`` never refuses what `info` calls a label map."""
    channels = np.stack([np.where(MASK, label, 0.0), np.where(MASK, label, background)])
    if labels_in(channels) is None:
        assert background > 5e-5
        with pytest.raises(InputError, match="labels are whole numbers"):
            read_labels(channels, channel="all")
    else:
        assert read_labels(channels, channel="all").unique().tolist() == [0, label]


@pytest.mark.parametrize(
    ("value", "shown"), [(2.5, "2.5"), (2.999, "2.999"), (1.0001, "1.0001"), (14175.002, "14175.002"), (np.nan, "nan")]
)
def test_values_that_are_no_labels_are_shown_with_their_digits(value, shown):
    with pytest.raises(InputError, match=f"holds the value {shown}"):
        read_labels(np.where(MASK, value, 0.0)[None])
