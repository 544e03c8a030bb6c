# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``apply --dicom`` and ``convert`` to DICOM registration objects."""

from __future__ import annotations

import numpy as np

from monai_locor.geometry import SpatialTransform
from monai_locor.io.transforms import read_transform, write_transform

from ..io.dicom_files import AXIAL, OBLIQUE, places, write_series

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
