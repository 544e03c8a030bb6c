# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Every frame of DICOM at its own position, in files of one frame and of many; what is no volume is refused by its name."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    SecondaryCaptureImageStorage,
)

from monai_locor.geometry import Grid
from monai_locor.io import read_image
from monai_locor.io.dicom import is_dicom

from .dicom_files import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    PLANES,
    SAGITTAL,
    SPACING,
    assert_in_place,
    dataset,
    enhanced,
    item,
    normal,
    painted,
    places,
    read,
    refusal,
    save,
    slice_of,
    ultrasound,
    without_pydicom,
    write_series,
)

planes = pytest.mark.parametrize("orientation", PLANES.values(), ids=PLANES)


@planes
@pytest.mark.parametrize("with_pydicom", [True, False])
def test_a_shuffled_series(tmp_path, monkeypatch, orientation, with_pydicom):
    write_series(tmp_path, places(orientation, 7), orientation)
    if not with_pydicom:
        without_pydicom(monkeypatch)
    stored = read(tmp_path)
    assert stored.shape == (5, 6, 7) and stored.dtype == "int16" and stored.channels == ()
    assert_in_place(stored)
    np.testing.assert_allclose(np.linalg.norm(stored.affine[:3, :3], axis=0), [SPACING[1], SPACING[0], 4], rtol=1e-6)


@planes
def test_shuffled_frames(tmp_path, orientation):
    frames = [(place, 0, {}) for place in places(orientation, 7)]
    file = save(tmp_path / "a.dcm", enhanced([frames[k] for k in (3, 0, 6, 1, 5, 2, 4)], orientation))
    assert read(file).shape == (5, 6, 7)
    assert_in_place(read(file))
    np.testing.assert_array_equal(read(tmp_path).voxels, read(file).voxels)  # its folder


@planes
def test_one_slice(tmp_path, orientation):
    file = save(tmp_path / "a.dcm", slice_of([3.0, 4.0, 5.0], orientation, SpacingBetweenSlices=2.5))
    stored = read(file)
    assert stored.shape == (5, 6, 1)
    assert_in_place(stored)
    np.testing.assert_allclose(stored.affine[:3, 2], 2.5 * normal(orientation) * (-1, -1, 1), atol=1e-9)


@planes
def test_one_slice_is_a_two_dimensional_image(tmp_path, orientation):
    file = save(tmp_path / "a.dcm", slice_of([3.0, 4.0, 5.0], orientation))
    image = read_image(file)[0]
    np.testing.assert_array_equal(image[0].numpy().T, painted([3.0, 4.0, 5.0], orientation))
    np.testing.assert_allclose(Grid.of(image).spacing, [SPACING[1], SPACING[0]], rtol=1e-6)


def test_the_same_place_as_simpleitk(tmp_path):
    write_series(tmp_path, places(OBLIQUE, 4), OBLIQUE)
    stored = read(tmp_path)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    for index in ((0, 0, 0), (4, 5, 3), (2, 1, 2)):
        point = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(stored.affine[:3] @ [*index, 1], np.multiply(point, (-1, -1, 1)), atol=1e-4)
        assert stored.voxels[index][0] == image[index]


def test_positions_count_more_than_thickness(tmp_path):
    write_series(tmp_path, places(AXIAL, 4), volumes=[{"SliceThickness": 9, "SpacingBetweenSlices": 7}])
    assert_in_place(read(tmp_path))


@pytest.mark.parametrize("many", [False, True], ids=["files", "frames"])
@pytest.mark.parametrize(
    ("heights", "where"),
    [([0, 4, 12, 16], "it is 8 mm, elsewhere 4 mm"), ([0, 1, 3, 4, 5], "it is 2 mm"), ([0, 3, 6, 10, 13], "it is 4 mm")],
    ids=["missing", "missing of five", "uneven"],
)
def test_slices_that_do_not_fill_a_grid(tmp_path, many, heights, where):
    positions = [(0, 0, z) for z in heights]
    if many:
        save(tmp_path / "a.dcm", enhanced([(place, 0, {}) for place in positions]))
    else:
        write_series(tmp_path, positions)
    refusal(tmp_path, "slices are missing or unevenly spaced", "dcm2niix", where, "from (0, 0, ")


def test_positions_rounded_to_a_tenth_of_a_millimeter(tmp_path, caplog):
    heights = np.round(np.arange(12) * 0.625, 1)
    with caplog.at_level(logging.WARNING):
        stored = read(write_series(tmp_path, [(0, 0, float(z)) for z in heights]))
    assert "the distance of slices varies" in caplog.text
    np.testing.assert_allclose(stored.affine[2, 2], 0.625, atol=0.01)


def test_slices_that_drift_away(tmp_path):
    """Every distance is nearly right, the whole is not."""
    heights = np.cumsum([0] + [4.0] * 10 + [4.3] * 10)
    refusal(write_series(tmp_path, [(0, 0, z) for z in heights]), "unevenly spaced")


def test_slices_beside_each_other(tmp_path):
    write_series(tmp_path, [(0, 0, 0), (0, 0, 4), (30, 0, 0), (30, 0, 4)])
    refusal(tmp_path, "beside each other in one plane")


@pytest.mark.parametrize("many", [False, True], ids=["files", "frames"])
@pytest.mark.parametrize("kind", ["two planes", "three planes", "turning"])
def test_slices_that_are_not_parallel(tmp_path, kind, many):
    angles = np.deg2rad([0, 15, 30])
    turning = [(np.cos(a), np.sin(a), 0, 0, 0, -1) for a in angles]
    orientations = {"two planes": [SAGITTAL, CORONAL], "three planes": [AXIAL, SAGITTAL, CORONAL] * 2, "turning": turning}[kind]
    if many:
        group = [{"PlaneOrientationSequence": [item(ImageOrientationPatient=[float(x) for x in o])]} for o in orientations]
        save(tmp_path / "a.dcm", enhanced([((0, 0, 3 * k), 0, g) for k, g in enumerate(group)]))
    for k, orientation in enumerate([] if many else orientations):
        size = {"Rows": 3} if k else {}  # scouts differ in size as well
        save(tmp_path / f"{k}.dcm", slice_of((0, 0, 3 * k), [float(f"{x:.9f}") for x in orientation], **size))
    refusal(tmp_path, f"its {len(orientations)} slices are not parallel", f"{len(set(orientations))} orientations")


def test_frames_in_time_and_frames_without_a_position(tmp_path):
    refusal(save(tmp_path / "us" / "a.dcm", ultrasound(4)), "4 of its 4 frames", "frames in time, not slices")
    two = [dataset(painted((0, 0, 0)), SecondaryCaptureImageStorage) for _ in range(2)]
    for k, data in enumerate(two):
        save(tmp_path / "sc" / f"{k}.dcm", data)
    refusal(tmp_path / "sc", "2 of its 2 frames have no usable position")


@pytest.mark.parametrize("spacing", [None, [0.5, 0.25]])
def test_a_picture_without_a_position(tmp_path, caplog, spacing):
    more = {"PixelSpacing": spacing} if spacing else {}
    data = dataset(painted((0, 0, 0)), SecondaryCaptureImageStorage, **more)
    with caplog.at_level(logging.WARNING):
        stored = read(save(tmp_path / "a.dcm", data))
    sizes = (0.25, 0.5) if spacing else (1, 1)
    np.testing.assert_array_equal(stored.affine, np.diag([-sizes[0], -sizes[1], 1, 1]))
    assert "no usable position" in caplog.text and ("which the header does not say" in caplog.text) == (spacing is None)


def test_what_lies_beside_slices_is_left_out(tmp_path, caplog):
    write_series(tmp_path, places(AXIAL, 4))
    shutil.copy(tmp_path / "000.dcm", tmp_path / "copy of 000.dcm")
    (tmp_path / "README.txt").write_text("slices of a phantom" * 20)
    (tmp_path / "short.txt").write_text("")
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "notes.dcm").write_text("")
    report = slice_of((0, 0, 0))
    del report.Rows, report.Columns, report.PixelData
    save(tmp_path / "report.dcm", report)
    with caplog.at_level(logging.WARNING):
        assert_in_place(read(tmp_path))
    assert "1 files lie in the folder more than once" in caplog.text
    refusal(tmp_path / "report.dcm", "no picture")
    refusal(tmp_path / "nested", "0 DICOM series")
    refusal(tmp_path / "nested" / "notes.dcm", "is not DICOM, in spite of its suffix")


def test_a_series_of_two_grids(tmp_path):
    write_series(tmp_path / "a", places(AXIAL, 4), volumes=[{"SliceThickness": 2}])
    (tmp_path / "a").rename(tmp_path / "b")
    for k, place in enumerate(places(AXIAL, 3, 8.0)):
        save(tmp_path / "b" / f"thick{k}.dcm", slice_of(place, SliceThickness=8))
    refusal(tmp_path / "b", "2 DICOM series", "1.2.3.4.grid1 (4 slices)", "1.2.3.4.grid2 (3 slices)")
    assert read(tmp_path / "b" / "1.2.3.4.grid2").shape == (5, 6, 3)


def test_the_whole_uid_counts_more_than_a_longer_one(tmp_path):
    for k, place in enumerate(places(AXIAL, 2)):
        save(tmp_path / f"{k}.dcm", slice_of(place))
        save(tmp_path / f"other{k}.dcm", slice_of(place, volume=1, series="1.2.3.45"))
    assert_in_place(read(tmp_path / "1.2.3.4"))


def test_frames_without_pydicom(tmp_path, monkeypatch):
    file = save(tmp_path / "a.dcm", enhanced([(place, 0, {}) for place in places(AXIAL, 3)]))
    without_pydicom(monkeypatch)
    refusal(file, "a.dcm is made of frames", 'pip install "monai-locor[formats]"')
    refusal(tmp_path, 'pip install "monai-locor[formats]"')


def test_what_is_dicom(tmp_path):
    file = save(tmp_path / "IM0001", slice_of((0, 0, 0)))
    assert is_dicom(file)
    (tmp_path / "bare").write_bytes(file.read_bytes()[132:])
    (tmp_path / "text").write_text("x" * 200)
    (tmp_path / "header").write_bytes(b"\x5c\x01\0\0" + b"\0" * 400)
    assert is_dicom(tmp_path / "bare") and not is_dicom(tmp_path / "text") and not is_dicom(tmp_path / "header")
    assert not is_dicom(tmp_path) and not is_dicom(tmp_path / "absent.dcm")
    assert_in_place(read(tmp_path / "bare"))


def test_frames_of_different_pixels(tmp_path):
    """Legal in an enhanced file."""
    data = enhanced([(place, 0, {}) for place in places(AXIAL, 3)])
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    for k, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        group.PixelMeasuresSequence = measures if k else [item(PixelSpacing=[1, 1], SliceThickness=9)]
    refusal(save(tmp_path / "a.dcm", data), "3 frames differ in the number or size of pixels")
