# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pixels of DICOM: slopes, colors, segments, compression, damage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    NuclearMedicineImageStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
)

from .dicom_files import (
    AXIAL,
    CORONAL,
    assert_in_place,
    dataset,
    enhanced,
    item,
    painted,
    places,
    read,
    refusal,
    save,
    segmentation,
    slice_of,
    without_pydicom,
    write_series,
)


def test_colors_are_channels(tmp_path, caplog):
    colors = np.random.default_rng(0).integers(0, 255, (4, 6, 5, 3)).astype(np.uint8)
    for k, place in enumerate(places(AXIAL, 4)):
        position = {"ImagePositionPatient": list(place), "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [1, 1]}
        save(tmp_path / f"{k}.dcm", dataset(colors[k], SecondaryCaptureImageStorage, **position))
    stored = read(tmp_path)
    assert stored.channels == ("red", "green", "blue")
    np.testing.assert_array_equal(stored.voxels, np.transpose(colors, (2, 1, 0, 3)))
    np.testing.assert_array_equal(read(tmp_path / "2.dcm").voxels[:, :, 0], np.transpose(colors[2], (1, 0, 2)))


def test_segments_are_channels(tmp_path):
    """A segment may leave out slices in which it is empty."""
    where = places(AXIAL, 4)
    frames = [(where[k], 1) for k in (2, 0, 3)] + [(where[k], 2) for k in (0, 3)]
    masks = np.random.default_rng(0).integers(0, 2, (5, 6, 5))
    stored = read(save(tmp_path / "a.dcm", segmentation(frames, masks)))
    assert stored.channels == ("segment 1 (organ 1)", "segment 2 (organ 2)") and stored.shape == (5, 6, 4)
    wanted = np.zeros((2, 4, 6, 5))
    for mask, k, segment in zip(masks, (2, 0, 3, 0, 3), (0, 0, 0, 1, 1)):
        wanted[segment, k] = mask
    np.testing.assert_array_equal(stored.voxels, wanted.transpose(3, 2, 1, 0))


def test_slope_and_intercept_of_every_frame(tmp_path):
    scale = [(1.0, -1000.0), (0.5, 0.0), (2.0, 3.0)]
    groups = [{"PixelValueTransformationSequence": [item(RescaleSlope=s, RescaleIntercept=i)]} for s, i in scale]
    frames = [(place, 0, group) for place, group in zip(places(AXIAL, 3), groups)]
    many = read(save(tmp_path / "many" / "a.dcm", enhanced(frames)))
    for k, (place, (s, i)) in enumerate(zip(places(AXIAL, 3), scale)):
        save(tmp_path / "one" / f"{k}.dcm", slice_of(place, RescaleSlope=s, RescaleIntercept=i))
        np.testing.assert_allclose(many.voxels[:, :, k, 0].T, painted(place) * s + i)
    np.testing.assert_array_equal(read(tmp_path / "one").voxels, many.voxels)
    assert many.voxels.dtype == np.float32 and many.dtype == "int16"


def test_a_dose(tmp_path):
    data = dataset(np.arange(3 * 6 * 5, dtype=np.uint32).reshape(3, 6, 5), RTDoseStorage, DoseGridScaling=0.25)
    data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing = [1, 2, 3], list(AXIAL), [2, 2]
    data.GridFrameOffsetVector = [0, 2.5, 5]
    stored = read(save(tmp_path / "a.dcm", data))
    np.testing.assert_array_equal(stored.voxels[..., 0].T, np.arange(90).reshape(3, 6, 5) * 0.25)
    np.testing.assert_array_equal(stored.affine, [[-2, 0, 0, -1], [0, -2, 0, -2], [0, 0, 2.5, 3], [0, 0, 0, 1]])


@pytest.mark.parametrize("with_pydicom", [True, False])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_pixels_in_other_forms(tmp_path, monkeypatch, syntax, with_pydicom):
    data = slice_of((1, 2, 3), RescaleSlope=1, RescaleIntercept=-100)
    if syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
    data.file_meta.TransferSyntaxUID = syntax
    file = save(tmp_path / "a.dcm", data)
    if not with_pydicom:
        without_pydicom(monkeypatch)
    np.testing.assert_array_equal(read(file).voxels[:, :, 0, 0].T, painted((1, 2, 3)) - 100)


@pytest.mark.parametrize("with_pydicom", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_pixels_whose_lowest_value_is_white(tmp_path, monkeypatch, dtype, with_pydicom):
    values = np.arange(30).reshape(6, 5).astype(dtype)
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [1, 1]}
    data = dataset(values, MRImageStorage, PhotometricInterpretation="MONOCHROME1", **place)
    if not with_pydicom:
        without_pydicom(monkeypatch)
    highest = -1 if dtype == "int16" else np.iinfo(dtype).max
    np.testing.assert_array_equal(read(save(tmp_path / "a.dcm", data)).voxels[:, :, 0, 0].T, highest - values.astype(int))


@pytest.mark.parametrize("with_pydicom", [True, False])
@pytest.mark.parametrize("kind", ["jp2klossless", "jpeg_ls_lossless", "RLE", "bigendian", "padded"])
def test_compressed_pixels(monkeypatch, kind, with_pydicom):
    files = [get_testdata_file(f"MR_small{more}.dcm", download=False) for more in ("", f"_{kind}")]
    if not with_pydicom:
        without_pydicom(monkeypatch)
    plain, compressed = (read(Path(file)) for file in files)
    np.testing.assert_array_equal(compressed.voxels, plain.voxels)
    np.testing.assert_array_equal(compressed.affine, plain.affine)


def test_damaged_pixels(tmp_path):
    data = slice_of((0, 0, 0))
    data.PixelData = data.PixelData[:20]
    refusal(save(tmp_path / "a.dcm", data), "a.dcm are missing, damaged")
    write_series(tmp_path / "b", places(AXIAL, 3))
    middle = tmp_path / "b" / "001.dcm"
    middle.write_bytes(middle.read_bytes()[:-30])
    refusal(tmp_path / "b", "001.dcm are missing, damaged")


def test_scales_of_compressed_frames(tmp_path):
    """GDCM applies one scale to all frames; each has its own."""
    image = pytest.importorskip("PIL.Image")
    scale = [(2.0, 5.0), (1.0, 0.0), (0.5, -3.0)]
    groups = [{"PixelValueTransformationSequence": [item(RescaleSlope=s, RescaleIntercept=i)]} for s, i in scale]
    pixels = np.random.default_rng(0).integers(0, 60000, (3, 64, 64)).astype(np.uint16)
    data = enhanced([(place, 0, group) for place, group in zip(places(AXIAL, 3), groups)])
    data.Rows = data.Columns = 64
    data.PixelRepresentation = 0
    frames = []
    for picture in pixels:
        stream = io.BytesIO()
        image.fromarray(picture).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
        frames.append(stream.getvalue())
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    stored = read(save(tmp_path / "a.dcm", data))
    for k, (s, i) in enumerate(scale):
        np.testing.assert_allclose(stored.voxels[:, :, k, 0].T, pixels[k] * s + i)


def test_a_volume_that_itk_wrote(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 999, (4, 6, 5)).astype(np.uint16))
    image.SetSpacing((2, 3, 4))
    image.SetOrigin((5, 6, 7))
    image.SetDirection(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "a.dcm"))
    stored = read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(stored.voxels[..., 0].T, sitk.GetArrayFromImage(image))
    point = image.TransformIndexToPhysicalPoint((1, 2, 3))
    np.testing.assert_allclose(stored.affine[:3] @ (1, 2, 3, 1), np.multiply(point, (-1, -1, 1)))


@pytest.mark.parametrize("gap", [4.0, -4.0])
def test_nuclear_medicine(tmp_path, gap):
    """A negative distance stacks slices against their normal."""
    where = places(CORONAL, 3, gap)
    data = dataset(np.stack([painted(place, CORONAL) for place in where]), NuclearMedicineImageStorage)
    data.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    data.PixelSpacing, data.SpacingBetweenSlices, data.SliceVector = [2, 3], gap, [1, 2, 3]
    place = item(ImagePositionPatient=list(where[0]), ImageOrientationPatient=list(CORONAL))
    data.DetectorInformationSequence = [place]
    assert_in_place(read(save(tmp_path / "a.dcm", data)))
    data.ImageType = ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]  # projections
    refusal(save(tmp_path / "a.dcm", data), "3 of its 3 frames have no usable position")


def test_gray_and_color_in_one_series(tmp_path):
    write_series(tmp_path, places(AXIAL, 2))
    position = {"ImagePositionPatient": [1, -2, 11], "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [2, 3]}
    colors = dataset(np.zeros((6, 5, 3), np.uint8), SecondaryCaptureImageStorage, SliceThickness=4, **position)
    save(tmp_path / "z.dcm", colors)
    refusal(tmp_path, "in color, other slices are not")
