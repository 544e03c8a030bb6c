# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""DICOM objects and other programs: plastimatch writes what we read, dciodvfy (dicom3tools) finds no error in what we write."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform
from monai_locor.io.dicom import dicom_geometry, images
from monai_locor.io.dicom.rtstruct import carry_structures
from monai_locor.io.dicom.segmentations import carry_segments
from monai_locor.io.images import read_image
from monai_locor.io.transforms import read_transform, write_transform

from .dicom_files import AXIAL, OBLIQUE, places, write_series
from .dicom_regions import CENTER, ball, closed, contours_in, dice, grid_of, mask_of, rtstruct, segmentation, series, shell
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
        assert errors_in(path) == [], path


def errors_in(path: Path) -> list[str]:
    found = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    return [line for line in found.stderr.splitlines() if line.startswith("Error")]


@pytest.fixture
def regions(tmp_path):
    """An RTSTRUCT and a SEG object that are carried over to a fixed series, and the folder of that series."""
    fixed, moving = (series(tmp_path / role, role) for role in ("fixed", "moving"))
    matrix = np.eye(4)
    matrix[:3, 3] = (3.3, -2.7, 4.1)
    transform = SpatialTransform.of_affine(matrix)
    contours = {"shell": closed(shell()), "ball": closed(shell(inner=0.0)), "spot": [("POINT", CENTER[None])], "empty": []}
    structures, segments = tmp_path / "structures.dcm", tmp_path / "segments.dcm"
    carry_structures(rtstruct(tmp_path / "rs.dcm", contours), structures, transform, fixed, moving)
    grid = grid_of(moving)
    source = segmentation(tmp_path / "seg.dcm", moving, [ball(grid), ball(grid, CENTER + (20, 0, 0), 9.0)])
    carry_segments(source, segments, transform, fixed)
    return structures, segments, fixed


@needs("dciodvfy")
def test_regions_that_are_written_are_valid(regions):
    for path in regions[:2]:
        assert errors_in(path) == [], path


@needs("plastimatch")
def test_plastimatch_reads_the_contours_as_they_are_meant(tmp_path, regions):
    structures, _, fixed = regions
    words = ["--input", structures, "--referenced-ct", fixed, "--output-prefix", tmp_path / "masks", "--prefix-format", "nrrd"]
    subprocess.run(["plastimatch", "convert", *words], check=True, capture_output=True)
    content, grid = pydicom.dcmread(structures), grid_of(fixed)
    for number, name in ((3, "shell"), (4, "ball")):
        image, _ = read_image(tmp_path / "masks" / f"{name}.nrrd")
        found = Grid.of(image)
        index = np.rint((found.points() - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T).astype(int)
        inside = index[image[0].numpy() > 0]
        mask = np.zeros(grid.shape, dtype=bool)
        mask[tuple(inside.T)] = True
        assert dice(mask, mask_of(contours_in(content, number), grid)) > 0.99
