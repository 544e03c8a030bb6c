# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images and masks are read: every fault is found and named in one line, with a remedy."""

from __future__ import annotations

import logging
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, set_track_meta
from PIL import Image

from monai_locor.errors import InputError
from monai_locor.geometry import Grid
from monai_locor.io import read_image, read_mask, write_image

from .dicom_slices import write_slices

AFFINE = np.array([[0.0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def voxels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def refusal(source, read=read_image, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert "\n" not in message and ";" in message  # one line, with a remedy
    return message


# --- reading


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_all_formats_give_the_same_image(tmp_path, suffix):
    data = voxels(4, 5, 6)
    path = save(tmp_path / "a.nii", data)
    if not suffix.startswith(".nii"):
        itk.imwrite(itk.imread(str(path)), str(tmp_path / f"b{suffix}"))
        path = tmp_path / f"b{suffix}"
    image, valid = read_image(str(path), "moving")
    assert isinstance(image, MetaTensor) and image.dtype == torch.float32 and valid is None
    np.testing.assert_array_equal(image.numpy(), data[None])
    np.testing.assert_allclose(image.affine.numpy(), AFFINE, atol=1e-5)
    assert image.meta["filename_or_obj"] == str(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64, ">i2", ">f4"])
def test_all_types_become_float32(tmp_path, dtype):
    data = np.arange(60).reshape(3, 4, 5).astype(dtype)
    for source in (save(tmp_path / "a.nii", data), data[None]):
        image = read_image(source)[0]
        assert image.dtype == torch.float32
        np.testing.assert_array_equal(image.numpy()[0], np.arange(60).reshape(3, 4, 5))


@pytest.mark.parametrize("shape", [(4, 5, 6, 1), (4, 5, 6, 1, 1), (4, 5, 1), (4, 5), (1, 5, 6)])
def test_trailing_axes_of_one_voxel_go(tmp_path, shape):
    expected = {(4, 5, 6, 1): (4, 5, 6), (4, 5, 6, 1, 1): (4, 5, 6), (4, 5, 1): (4, 5)}.get(shape, shape)
    assert read_image(save(tmp_path / "a.nii", voxels(*shape)))[0].shape == (1, *expected)
    if len(shape) < 5:
        image = read_image(voxels(1, *shape))[0]
        assert image.shape == (1, *expected) and torch.equal(image.affine, torch.eye(4, dtype=torch.float64))


def test_tensors_and_arrays(tmp_path):
    data = torch.from_numpy(voxels(1, 4, 5, 6))
    for source in (data, data.numpy()):
        image = read_image(source)[0]
        assert torch.equal(image.as_tensor(), data) and torch.equal(image.affine, torch.eye(4, dtype=torch.float64))
    meta = MetaTensor(data, affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": "brain.nii"})
    image = read_image(meta)[0]
    np.testing.assert_array_equal(image.affine.numpy(), AFFINE)
    assert image.meta["filename_or_obj"] == "brain.nii"
    assert "brain.nii" in refusal(torch.zeros_like(meta))


def test_flat_affines_of_two_dimensional_tensors_are_filled_up():
    flat = torch.tensor([[2.0, 0, 7], [0, 3, 8], [0, 0, 1]])
    image = read_image(MetaTensor(torch.from_numpy(voxels(1, 4, 5)), affine=flat))[0]
    assert image.affine.tolist() == [[2, 0, 0, 7], [0, 3, 0, 8], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_one_of_several_channels(tmp_path):
    data = voxels(4, 5, 6, 3)
    path = save(tmp_path / "a.nii.gz", data)
    message = refusal(path)
    assert (
        message.startswith(f"fixed image {path}: has 3 channels or frames of shape (4, 5, 6)") and "channel=0 to 2" in message
    )
    np.testing.assert_array_equal(read_image(path, channel=2)[0].numpy()[0], data[..., 2])
    assert "no channel 3" in refusal(path, channel=3) and "no channel -1" in refusal(path, channel=-1)
    assert "image[None]" in refusal(np.moveaxis(data, -1, 0))
    np.testing.assert_array_equal(read_image(np.moveaxis(data, -1, 0), channel=1)[0].numpy()[0], data[..., 1])


def test_colors(tmp_path):
    pixels = (np.random.default_rng(0).random((6, 5, 3)) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].shape == (1, 5, 6)  # one intensity, see test_pictures.py
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", channel=1)[0].numpy()[0], pixels[..., 1].T)
    rgb = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["G"] = np.arange(120).reshape(4, 5, 6)
    nib.save(nib.Nifti1Image(rgb, AFFINE), tmp_path / "rgb.nii")
    assert "3 channels" in refusal(tmp_path / "rgb.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.nii", channel=1)[0].numpy()[0], rgb["G"])


def test_a_folder_of_one_dicom_series(tmp_path):
    volume, thickness = np.random.default_rng(0).integers(0, 1000, (4, 6, 5)).astype(np.int16), {"0018|0050": "4"}
    assert "0 DICOM series" in refusal(tmp_path)
    write_slices(tmp_path, "1.2.3.4", volume, **thickness)
    image = read_image(tmp_path)[0]
    np.testing.assert_array_equal(image.numpy()[0], volume.T)
    np.testing.assert_allclose(image.affine.numpy(), [[-2, 0, 0, -1], [0, -3, 0, -2], [0, 0, 4, 0], [0, 0, 0, 1]])
    write_slices(tmp_path, "1.2.3.5", volume, **thickness)
    assert "2 DICOM series" in refusal(tmp_path)


# --- refusals


def test_missing_file(tmp_path):
    message = refusal(tmp_path / "none.nii.gz", role="moving")
    assert message.startswith(f"moving image {tmp_path / 'none.nii.gz'}: no such file")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".png", ".txt", ""])
def test_files_that_are_no_images(tmp_path, suffix):
    path = tmp_path / f"text{suffix}"
    path.write_text("not an image")
    assert f"{path}: cannot be read" in refusal(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    itk.imwrite(itk.image_from_array(voxels(20, 20, 20)), str(path))
    path.write_bytes(path.read_bytes()[:9000])
    assert "cannot be read" in refusal(path)


def test_headers_that_promise_too_much(tmp_path):
    path = save(tmp_path / "a.nii.gz", voxels(4, 5, 6))
    image = nib.load(path)
    header = bytearray(image.header.binaryblock)
    header[42:48] = np.array([32000] * 3, dtype="<i2").tobytes()
    (tmp_path / "bomb.nii").write_bytes(bytes(header) + bytes(500))
    assert "cannot be read" in refusal(tmp_path / "bomb.nii")


def test_complex_images(tmp_path):
    data = voxels(4, 5, 6).astype(np.complex64)
    assert "complex" in refusal(save(tmp_path / "a.nii", data))
    assert "complex" in refusal(data[None]) and "complex" in refusal(torch.from_numpy(data)[None])


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_constant_images(tmp_path, value):
    path = save(tmp_path / "a.nii", np.full((4, 5, 6), value, dtype=np.float32))
    assert f"every voxel is {value:g}" in refusal(path)
    data = np.full((1, 4, 5), value)
    data[0, 0, 0] = np.inf
    assert f"every voxel is {value:g}" in refusal(data)


def test_voxels_that_are_not_finite(tmp_path, caplog):
    data = voxels(4, 5, 6)
    data[0, :, 0], data[1, 2, 3] = np.nan, -np.inf
    path = save(tmp_path / "a.nii", data)
    with caplog.at_level(logging.WARNING):
        image, valid = read_image(path, "moving")
    assert f"moving image {path}: 6 of 120 voxels" in caplog.text
    assert valid is not None and valid.dtype == torch.bool and valid.shape == image.shape
    np.testing.assert_array_equal(valid.numpy()[0], np.isfinite(data))
    assert (image.as_tensor()[~valid] == data[np.isfinite(data)].min()).all()
    np.testing.assert_array_equal(image.as_tensor()[valid].numpy(), data[np.isfinite(data)])
    np.testing.assert_allclose(image.affine.numpy(), AFFINE)
    data[:3] = np.nan
    assert "90 of 120 voxels" in refusal(save(tmp_path / "b.nii", data))


def test_the_image_that_is_given_is_not_modified():
    data = torch.from_numpy(voxels(1, 4, 5, 6))
    data[0, 0, 0, 0] = float("nan")
    read_image(data)
    assert torch.isnan(data[0, 0, 0, 0])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_singular_and_non_finite_affines(tmp_path, value):
    affine = AFFINE.copy()
    affine[:3, 2] = value
    data = torch.from_numpy(voxels(1, 4, 5, 6))
    assert "affine is not invertible" in refusal(MetaTensor(data, affine=torch.from_numpy(affine)))
    image = nib.Nifti1Image(data.numpy()[0], AFFINE)
    image.header.set_sform(affine, code=1)
    with open(tmp_path / "a.nii", "wb") as file:  # nibabel itself would put the affine in order
        image.header["vox_offset"] = 352
        file.write(image.header.binaryblock + bytes(4) + data.numpy()[0].tobytes(order="F"))
    assert "affine is not invertible" in refusal(tmp_path / "a.nii")


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 5, 6), (1, 1, 1, 4, 5, 6), (1, 0, 4, 5)])
def test_wrong_shapes_of_tensors(shape):
    assert str(shape) in refusal(torch.zeros(shape)) or str(shape[1:]) in refusal(torch.zeros(shape))


def test_wrong_types():
    assert "has shape (3,)" in refusal([1, 2, 3])


# --- headers that contradict themselves


def with_forms(path: Path, sform: np.ndarray | None, qform: np.ndarray | None, unit: str = "mm") -> Path:
    image = nib.Nifti1Image(voxels(4, 5, 6), AFFINE)
    image.header.set_xyzt_units(unit)
    image.set_qform(qform, code=int(qform is not None))
    image.set_sform(sform, code=int(sform is not None))
    nib.save(image, path)
    return path


def test_forms_that_disagree(tmp_path, caplog):
    other = AFFINE.copy()
    other[0, 3] += 1
    with caplog.at_level(logging.WARNING):
        read_image(with_forms(tmp_path / "same.nii", AFFINE, AFFINE))
        assert caplog.text == ""
        image = read_image(with_forms(tmp_path / "a.nii", other, AFFINE))[0]
    assert f"fixed image {tmp_path / 'a.nii'}: sform and qform" in caplog.text and "the sform is used" in caplog.text
    np.testing.assert_allclose(image.affine.numpy(), other, atol=1e-5)


def test_headers_without_forms_and_in_other_units(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read_image(with_forms(tmp_path / "a.nii", None, None))
        assert "neither sform nor qform" in caplog.text
        read_image(with_forms(tmp_path / "b.nii", AFFINE, AFFINE, "micron"))
        assert "micron" in caplog.text


def test_slices_keep_their_place_in_three_dimensions(tmp_path, caplog):
    """Read as 2-D images, written again where they were; slices in the x-y plane with two axes."""
    sagittal, tilted = np.eye(4)[[2, 0, 1, 3]], np.eye(4)
    tilted[1:3, 1:3] = [[0.8, -0.6], [0.6, 0.8]]
    with caplog.at_level(logging.WARNING):
        for affine in (sagittal, tilted, AFFINE):
            path = save(tmp_path / "a.nii", voxels(4, 5, 1), affine @ np.diag([2, 3, 4, 1.0]))
            image = read_image(path)[0]
            assert image.shape == (1, 4, 5)
            for suffix in (".nii.gz", ".mha"):
                write_image(tmp_path / f"b{suffix}", image, Grid.of(image))
                again = read_image(tmp_path / f"b{suffix}")[0]
                np.testing.assert_array_equal(again.numpy(), image.numpy())
                np.testing.assert_allclose(Grid.of(again).affine, Grid.of(image).affine, atol=1e-6)
                if affine is not AFFINE:
                    np.testing.assert_allclose(again.affine, image.affine, atol=1e-6)
            assert nib.load(tmp_path / "b.nii.gz").shape == ((4, 5) if affine is AFFINE else (4, 5, 1))
    assert caplog.text == ""


def test_without_tracking_of_meta_data(tmp_path):
    path = save(tmp_path / "a.nii", voxels(4, 5, 6))
    set_track_meta(False)
    try:
        image = read_image(path)[0]
    finally:
        set_track_meta(True)
    assert isinstance(image, MetaTensor)
    np.testing.assert_allclose(image.affine.numpy(), AFFINE)


# --- masks


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_masks_of_all_types(dtype):
    data = np.zeros((1, 3, 4, 5), dtype=dtype)
    data[0, 1] = 1
    mask = read_mask(data)
    assert mask.dtype == torch.float32 and mask.shape == data.shape
    np.testing.assert_array_equal(mask.numpy(), data.astype(np.float32))


def test_labels_become_one_and_weights_stay(tmp_path):
    labels = np.zeros((3, 4, 5), dtype=np.int16)
    labels[0], labels[1] = 3, 255
    mask = read_mask(save(tmp_path / "a.nii", labels), "moving")
    np.testing.assert_array_equal(mask.numpy()[0], labels > 0)
    np.testing.assert_allclose(mask.affine.numpy(), AFFINE)
    weights = torch.rand(1, 3, 4)
    assert torch.equal(read_mask(weights).as_tensor(), weights)
    assert read_mask(torch.ones(1, 3, 4)).min() == 1  # all of the image


def test_masks_that_are_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((3, 4, 5), dtype=np.uint8))
    assert refusal(path, read_mask, role="moving").startswith(f"moving mask {path}: is empty")
    assert "negative values down to -1" in refusal(torch.tensor([[[-1.0, 1.0]]]), read_mask)
    assert "NaN" in refusal(torch.tensor([[[float("nan"), 1.0]]]), read_mask)
    assert "no such file" in refusal(tmp_path / "none.nii", read_mask)
    assert "2 channels" in refusal(torch.ones(2, 4, 5), read_mask)
