# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``apply --dicom`` and ``convert`` to DICOM registration objects."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from monai_locor.geometry import SpatialTransform
from monai_locor.io.transforms import read_transform, write_transform

from ..io.dicom_files import AXIAL, OBLIQUE, places, write_series
from ..io.dicom_regions import ball, circle, closed, contours_in, grid_of, rtstruct, segmentation, series

MATRIX = np.array([[0.0, -1.0, 0.0, 3.0], [1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0, 0, 0, 1.0]])


def test_series_and_registration_object(tmp_path, run, refused):
    fixed = write_series(tmp_path / "fixed", places(OBLIQUE, 5), OBLIQUE, volumes=({"FrameOfReferenceUID": "1.2.7"},))
    moving = write_series(tmp_path / "moving", places(AXIAL, 4), AXIAL, volumes=({"FrameOfReferenceUID": "1.2.9"},))
    affine, target, out = tmp_path / "affine.tfm", tmp_path / "registration.dcm", tmp_path / "out"
    write_transform(affine, SpatialTransform.of_affine(MATRIX))
    answer = run("apply", moving, "-t", affine, "-r", fixed, "--dicom", "-o", out, "--json")
    assert (
        answer.code == 0
        and answer.json["outputs"] == [str(path) for path in sorted(out.iterdir())]
        and len(list(out.iterdir())) == 5
    )
    assert run("convert", affine, "-o", target, "--fixed", fixed, "--moving", moving).code == 0
    np.testing.assert_allclose(read_transform(target).matrix, MATRIX, atol=1e-9)
    assert run("invert", target, "-r", moving, "--fixed", fixed, "-o", tmp_path / "back.dcm").code == 0
    np.testing.assert_allclose(read_transform(tmp_path / "back.dcm").matrix, np.linalg.inv(MATRIX), atol=1e-8)
    assert run("apply", moving, "-t", target, "-r", fixed, "-o", tmp_path / "warped.nii.gz").code == 0
    assert "would mix with the new series" in refused("apply", moving, "-t", affine, "-r", fixed, "--dicom", "-o", out)
    assert "name its DICOM folder with -r" in refused("apply", moving, "-t", affine, "--dicom", "-o", tmp_path / "other")
    nifti = tmp_path / "warped.nii.gz"
    assert "is not one; give its file or folder" in refused(
        "apply", nifti, "-t", affine, "-r", fixed, "--dicom", "-o", tmp_path / "o"
    )
    assert "refers to the moving image" in refused("convert", affine, "-o", tmp_path / "new.dcm", "--fixed", fixed)


@pytest.fixture
def regions(tmp_path):
    """A fixed and a moving series, an RTSTRUCT and a SEG object of the moving one, and a translation along x."""
    fixed, moving = (series(tmp_path / role, role) for role in ("fixed", "moving"))
    structures = rtstruct(tmp_path / "rs.dcm", {"organ": closed([circle((8, 9, 19), 12)])})
    segments = segmentation(tmp_path / "seg.dcm", moving, [ball(grid_of(moving))])
    shift = np.eye(4)
    shift[0, 3] = 4.0
    write_transform(tmp_path / "t.tfm", SpatialTransform.of_affine(shift))
    return fixed, moving, structures, segments, tmp_path / "t.tfm"


@pytest.mark.parametrize(("words", "x"), [((), 12.0), (("--inverse",), 4.0)], ids=["forward", "inverse"])
def test_regions_are_carried_over(tmp_path, run, regions, words, x):
    fixed, moving, structures, segments, affine = regions
    out = tmp_path / "out.dcm"
    common = ("-t", affine, "-r", fixed, "--dicom", "-o", out, "--json", *words)
    answer = run("apply", structures, *common, "--drawn-on", moving)
    assert answer.code == 0 and answer.json["kind"] == "RTSTRUCT" and answer.json["regions"] == {"3 organ": 1}
    (contour,) = contours_in(pydicom.dcmread(out), 3)
    np.testing.assert_allclose((contour.max(0) + contour.min(0))[:2] / 2, (x, 9), atol=0.1)  # LPS mm
    answer = run("apply", segments, *common, "--force")
    assert answer.code == 0 and answer.json["kind"] == "SEG" and answer.json["output"] == str(out)
    assert answer.json["regions"] == {"1 organ 1": int(pydicom.dcmread(out).pixel_array.sum())}


def test_regions_refused(tmp_path, refused, run, regions):
    fixed, moving, structures, segments, affine = regions
    to = ("-t", affine, "-r", fixed, "-o", tmp_path / "out.dcm")
    drawn = ("--drawn-on", moving)
    assert "add --dicom" in refused("apply", structures, *to)
    assert "name its DICOM folder with --drawn-on" in refused("apply", structures, *to, "--dicom")
    assert "is for RTSTRUCT objects" in refused("apply", segments, *to, "--dicom", *drawn)
    assert "-n: does not apply" in refused("apply", segments, *to, "--dicom", "-n", "nearest")
    assert "--labels: does not apply" in refused("apply", structures, *to, "--dicom", "--labels", *drawn)
    assert "must end in .dcm" in refused("apply", structures, "-t", affine, "-r", fixed, "-o", "out", "--dicom", *drawn)
    assert "with -r" in refused("apply", structures, "-t", affine, "-o", tmp_path / "out.dcm", "--dicom", *drawn)
    assert "the series given 1.2.7" in refused("apply", structures, *to, "--dicom", "--drawn-on", fixed)
    nifti = tmp_path / "labels.nii.gz"  # as before, a SEG object is an image where none is to be written
    assert run("apply", segments, "-t", affine, "-r", fixed, "--labels", "-o", nifti).code == 0
    assert "is not one; give its file or folder" in refused("apply", segments, "-t", affine, "-r", nifti, *to[4:], "--dicom")
