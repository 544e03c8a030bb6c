# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Headers as scanners and other tools leave them: the place is the one that nibabel gives, whatever else they say."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.io import read_displacement_field, read_image, read_transform
from monai_locor.io.grids import read_grid
from monai_locor.io.image_files import read_geometry, read_stored
from monai_locor.io.stored_image import TimeAxis

AFFINE = np.array([[-2.0, 0, 0, 31], [0, 2, 0, -45], [0, 0, 3, -20], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(0, 1000, (6, 5, 4)).astype(np.int16)

Edit = Callable[[bytearray], None]


def put(offset: int, layout: str, *values: float) -> Edit:
    """Numbers at a place of the header."""

    def change(header: bytearray) -> None:
        struct.pack_into(layout, header, offset, *values)

    return change


def write(path: Path, affine: np.ndarray, *edits: Edit, image: type = nib.Nifti1Image, data: np.ndarray = VOXELS) -> Path:
    made = image(data, affine)
    made.set_sform(affine, 2)
    made.set_qform(affine if np.isfinite(affine).all() else None, 0)
    nib.save(made, path)
    content = bytearray(path.read_bytes())
    for edit in edits:
        edit(content)
    path.write_bytes(content)
    return path


def quaternion(*values: float, code: int = 0) -> Edit:
    def change(header: bytearray) -> None:
        struct.pack_into("<h", header, 252, code)
        struct.pack_into("<6f", header, 256, *values)

    return change


ROUNDED = AFFINE + [[0.0004, -0.0003, 0.0001, 0], [0.0002, 0.0004, 0, 0], [0, 0.0001, -0.0004, 0], [0, 0, 0, 0]]
NAN = float("nan")
GOOD = {
    "pixdim of one": (AFFINE, put(80, "<3f", 1, 1, 1)),
    "pixdim of zero": (AFFINE, put(80, "<3f", 0, 0, 0)),
    "negative pixdim": (AFFINE, put(80, "<3f", -2, 2, 3)),
    "pixdim that is no number": (AFFINE, put(80, "<3f", NAN, 2, 3)),
    "scaled sform": (AFFINE @ np.diag([1.1, 0.9, 1.05, 1]), put(80, "<3f", 2, 2, 3)),
    "sform of three decimals": (ROUNDED.round(3), put(80, "<3f", 2, 2, 3)),
    "rubbish in the quaternion": (AFFINE, quaternion(5, 6, 7, 1, 2, 3)),
    "quaternion that is no number": (AFFINE, quaternion(NAN, NAN, NAN, NAN, NAN, NAN)),
    "and is said to count": (AFFINE, quaternion(NAN, NAN, NAN, NAN, NAN, NAN, code=1)),
    "qfac of zero": (AFFINE, put(76, "<f", 0)),
    "magic of a pair": (AFFINE, put(344, "4s", b"ni1\0")),
    "no offset": (AFFINE, put(108, "<f", 0)),
    "unknown unit": (AFFINE, put(123, "B", 7)),
    "unknown units": (AFFINE, put(123, "B", 72)),
    "all bits of the units": (AFFINE, put(123, "B", 255)),
    "unknown intent": (AFFINE, put(68, "<h", 3333)),
    "a fourth axis of none": (AFFINE, put(40, "<8h", 4, 6, 5, 4, 0, 1, 1, 1)),
    "a fifth axis of none": (AFFINE, put(40, "<8h", 5, 6, 5, 4, 1, 0, 1, 1)),
    "nothing beyond three axes": (AFFINE, put(40, "<8h", 3, 6, 5, 4, 0, 0, 0, 0)),
}


@pytest.mark.parametrize(("affine", "edit"), GOOD.values(), ids=GOOD)
def test_the_place_is_that_of_nibabel_everywhere(tmp_path, affine, edit):
    path = write(tmp_path / "a.nii", affine, edit)
    expected = nib.load(path).affine
    np.testing.assert_allclose(expected, affine, atol=1e-6)  # of single precision
    image = read_image(path)[0]
    np.testing.assert_array_equal(image.numpy()[0], VOXELS)
    np.testing.assert_array_equal(image.affine.numpy(), expected)
    grid = read_grid(path)
    assert grid.shape == VOXELS.shape
    np.testing.assert_array_equal(grid.affine, expected)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.nii.gz", nib.Nifti2Image), ("a.img", nib.Nifti1Pair), ("a.hdr", nib.Nifti2Pair)]
)
def test_other_kinds_of_nifti(tmp_path, name, kind):
    image = kind(VOXELS, AFFINE)
    image.header["pixdim"][1:4] = 1
    nib.save(image, tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name)[0].affine.numpy(), nib.load(tmp_path / name).affine)
    np.testing.assert_array_equal(read_image(tmp_path / name)[0].numpy()[0], VOXELS)


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage])
def test_analyze_pairs_are_guessed_as_nibabel_does(tmp_path, caplog, kind):
    nib.save(kind(VOXELS, AFFINE), tmp_path / "a.img")
    with caplog.at_level(logging.WARNING):
        image = read_image(tmp_path / "a.hdr")[0]
    assert f"{tmp_path / 'a.hdr'}: is of Analyze format" in caplog.text
    np.testing.assert_array_equal(image.affine.numpy(), nib.load(tmp_path / "a.img").affine)
    np.testing.assert_array_equal(image.numpy()[0], VOXELS)


@pytest.mark.parametrize(("suffix", "kind"), [(".mgz", nib.MGHImage), (".mgh", nib.MGHImage)])
def test_freesurfer(tmp_path, suffix, kind):
    nib.save(kind(VOXELS.astype(np.int32), AFFINE), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(
        read_image(tmp_path / f"a{suffix}")[0].affine.numpy(), nib.load(tmp_path / f"a{suffix}").affine
    )


@pytest.mark.parametrize("name", ["minc1_4d.mnc", "minc2_4d.mnc"])
def test_series_in_minc_have_time_first(name):
    pytest.importorskip("h5py")
    path = Path(nib.__file__).parent / "tests" / "data" / name
    image = nib.load(path)
    stored = read_stored(path, name)
    assert stored.voxels.shape == (10, 20, 20, 2) and read_geometry(path, name)[0] == (10, 20, 20)
    np.testing.assert_array_equal(stored.voxels[..., 1], np.asanyarray(image.dataobj)[1])
    np.testing.assert_array_equal(stored.affine, image.affine)
    assert stored.time == TimeAxis(image.header.get_zooms()[0], "sec")


def test_fields_lie_where_their_sform_says(tmp_path):
    data = np.ones((6, 5, 4, 1, 3), np.float32)
    for intent, read in ((1007, read_displacement_field), (1006, lambda path: (None, read_transform(path).domain))):
        path = write(tmp_path / "field.nii", AFFINE, put(80, "<3f", 1, 1, 1), put(68, "<h", intent), data=data)
        np.testing.assert_allclose(read(path)[1].affine, AFFINE)


def test_a_warning_where_pixdim_disagrees(tmp_path, caplog):
    quiet = [write(tmp_path / f"{k}.nii", *GOOD[name]) for k, name in enumerate(("sform of three decimals", "unknown units"))]
    with caplog.at_level(logging.WARNING):
        for path in quiet:
            read_image(path)
        assert caplog.text == ""
        path = write(tmp_path / "a.nii", *GOOD["scaled sform"])
        read_image(path)
    (record,) = caplog.records
    text = f"fixed image {path}: pixdim of its header says voxels of 2x2x3, its sform 2.2x1.8x3.15; the sform is used"
    assert record.getMessage() == text


def test_neither_form_is_the_guess_of_nibabel(tmp_path, caplog):
    path = write(tmp_path / "a.nii", AFFINE, put(252, "<2h", 0, 0))
    with caplog.at_level(logging.WARNING):
        image = read_image(path)[0]
    np.testing.assert_array_equal(image.affine.numpy(), nib.load(path).affine)
    assert "neither sform nor qform; its place in the world is a guess" in caplog.text


def test_a_quaternion_that_counts_and_is_none(tmp_path):
    """With no sform, there is no place that could be right."""
    for values in ((NAN,) * 6, (5, 6, 7, 1, 2, 3)):
        path = write(tmp_path / "a.nii", AFFINE, quaternion(*values, code=1), put(254, "<h", 0))
        with pytest.raises(InputError) as caught:
            read_image(path)
        assert "is it complete" not in str(caught.value) and "\n" not in str(caught.value) and "header" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "unit"), [(8, "sec"), (16, "msec"), (24, "usec"), (0, "unknown"), (56, "unknown"), (40, "ppm")]
)
def test_time_is_kept(tmp_path, code, unit):
    image = nib.Nifti1Image(np.zeros((3, 4, 5, 6), np.int16), AFFINE)
    image.header["xyzt_units"], image.header["pixdim"][4], image.header["toffset"] = 2 + code, 2.5, 10
    nib.save(image, tmp_path / "a.nii.gz")
    assert read_stored(tmp_path / "a.nii.gz", "a").time == TimeAxis(2.5, unit, 10)
    assert read_stored(tmp_path / "a.nii.gz", "a").chosen(2, "a").time is None


def test_intents_are_kept(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 4, 5, 1, 6), np.float32), AFFINE)
    image.header.set_intent("symmetric matrix", (3,), name="tensor")
    nib.save(image, tmp_path / "a.nii")
    stored = read_stored(tmp_path / "a.nii", "a")
    assert (stored.intent, stored.intent_name, stored.voxels.shape) == ("symmetric matrix", "tensor", (3, 4, 5, 6))
    assert stored.time is None
