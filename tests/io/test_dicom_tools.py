# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""DICOM objects and other programs: plastimatch writes what we read, dciodvfy (dicom3tools) finds no error in what we write."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform
from monai_locor.io.dicom import dicom_geometry, images
from monai_locor.io.transforms import read_transform, write_transform

from .dicom_files import AXIAL, OBLIQUE, places, write_series
from .transform_cases import some_affine

PATIENT = {"PatientName": "Doe^Jane", "PatientID": "P1", "PatientBirthDate": "19700101", "PatientSex": "F"}
STUDY = {"StudyDate": "20260131", "StudyTime": "101010", "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": ""}
MR = {
    **{"ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "2D", "EchoTrainLength": 1, "EchoTime": 12},
    **{"RepetitionTime": 500, "ScanOptions": "", "ImageType": ["ORIGINAL", "PRIMARY"]},
}


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


@pytest.fixture
def pair(tmp_path):
    """Folders of two series, and a transform between them."""
    fixed = {"FrameOfReferenceUID": "1.2.7", "Laterality": "R", **PATIENT, **STUDY, **MR}
    moving = {**fixed, "FrameOfReferenceUID": "1.2.9", "StudyInstanceUID": "1.2.8", "SeriesInstanceUID": "1.2.5"}
    folders = (
        write_series(tmp_path / "fixed", places(OBLIQUE, 9), OBLIQUE, volumes=(fixed,)),
        write_series(tmp_path / "moving", places(AXIAL, 8), AXIAL, volumes=(moving,)),
    )
    grid = Grid(*dicom_geometry(folders[0], "image"))
    waves = np.sin(0.2 * (grid.points() - grid.center)[..., [1, 2, 0]])
    field = FieldStep(np.moveaxis(2 * waves, -1, 0).astype(np.float32), grid)
    return *folders, SpatialTransform((field, AffineStep(some_affine(3))))


@needs("plastimatch")
@pytest.mark.parametrize("kind", ["affine", "deformable"])
def test_objects_of_plastimatch(tmp_path, pair, kind):
    fixed, moving, transform = pair
    grid = transform.domain
    if kind == "affine":
        transform = SpatialTransform.of_affine(some_affine(3))
    given = tmp_path / ("t.tfm" if kind == "affine" else "t.mha")
    write_transform(given, transform, fixed=grid)
    words = ["--input", given, "--output-dicom", tmp_path / "out", "--fixed-rcs", fixed, "--moving-rcs", moving]
    subprocess.run(["plastimatch", "xf-convert", *words], check=True, capture_output=True)
    (written,) = (tmp_path / "out").glob("*ro_*.dcm")
    points = grid.points()[1:-1, 1:-1, 1:-1].reshape(-1, 3)
    np.testing.assert_allclose(read_transform(written).points(points), transform.points(points), atol=1e-3)


@needs("dciodvfy")
def test_what_is_written_is_valid(tmp_path, pair):
    fixed, moving, transform = pair
    grid = transform.domain
    images.write_series(tmp_path / "out", np.arange(np.prod(grid.shape)).reshape(grid.shape), grid, fixed, moving)
    for name, given in (("deformable", transform), ("spatial", SpatialTransform.of_affine(some_affine(3)))):
        write_transform(tmp_path / f"{name}.dcm", given, fixed=fixed, moving=moving)
    for path in (tmp_path / "out" / "0001.dcm", tmp_path / "deformable.dcm", tmp_path / "spatial.dcm"):
        found = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert [line for line in found.stderr.splitlines() if line.startswith("Error")] == [], path
