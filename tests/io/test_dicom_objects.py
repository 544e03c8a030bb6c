# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""DICOM that we write: registration objects and derived series, and what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_locor.errors import InputError
from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform
from monai_locor.io.dicom import dicom_geometry, images, read_dicom
from monai_locor.io.dicom.registration import DEFORMABLE, SPATIAL, is_registration
from monai_locor.io.transforms import read_transform, write_transform

from .dicom_files import AXIAL, OBLIQUE, PLANES, places, write_series

FAR = ({"FrameOfReferenceUID": "1.2.9", "PatientID": "P1", "StudyInstanceUID": "1.2.8", "Modality": "MR"},)
NEAR = ({"FrameOfReferenceUID": "1.2.7", "PatientID": "P1", "PatientName": "Doe^Jane", "Modality": "MR"},)
AFFINE = np.array([[0.9, 0.1, 0.02, 4.0], [-0.1, 1.1, 0.0, -7.5], [0.03, 0.05, 1.0, 2.25], [0, 0, 0, 1]])
RIGID = np.array([[0.0, -1.0, 0.0, 3.0], [1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0, 0, 0, 1.0]])


@pytest.fixture
def series(tmp_path):
    """Folders of a fixed and a moving series, in different studies and frames of reference."""
    fixed = write_series(tmp_path / "fixed", places(OBLIQUE, 5), OBLIQUE, volumes=NEAR)
    return fixed, write_series(tmp_path / "moving", places(AXIAL, 4), AXIAL, volumes=FAR)


def grid_of(folder: Path) -> Grid:
    return Grid(*dicom_geometry(folder, "image"))


def bumps(grid: Grid, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, *grid.shape)).astype(np.float32)


def written(tmp_path: Path, transform: SpatialTransform, series: tuple[Path, Path]) -> Path:
    path = tmp_path / "registration.dcm"
    assert write_transform(path, transform, fixed=series[0], moving=series[1]) == [path]
    assert is_registration(path)
    return path


def standard_map(path: Path, index: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A grid point and where it goes, LPS mm, by the equation of PS3.3 C.20.3.1.1, written out for one point."""
    item = pydicom.dcmread(path).DeformableRegistrationSequence[1]
    grid = item.DeformableRegistrationGridSequence[0]
    row, column = np.array(grid.ImageOrientationPatient, dtype=float).reshape(2, 3)
    steps = np.stack([row, column, np.cross(row, column)], axis=1) * np.array(grid.GridResolution)
    point = np.array(grid.ImagePositionPatient, dtype=float) + steps @ index
    columns, rows, _ = grid.GridDimensions
    number = index[0] + columns * (index[1] + rows * index[2])
    offset = np.frombuffer(grid.VectorGridData, "<f4").reshape(-1, 3)[number]
    pre, post = (
        np.array(item[f"{which}DeformationMatrixRegistrationSequence"].value[0].FrameOfReferenceTransformationMatrix, float)
        for which in ("Pre", "Post")
    )
    moved = pre.reshape(4, 4)[:3] @ [*point, 1] + offset
    return point, post.reshape(4, 4)[:3] @ [*moved, 1]


@pytest.mark.parametrize(
    ("matrix", "kind"), [(AFFINE, "AFFINE"), (RIGID, "RIGID"), (RIGID * [[2], [2], [2], [1]], "RIGID_SCALE")]
)
def test_spatial_registration(tmp_path, series, matrix, kind):
    path = written(tmp_path, SpatialTransform.of_affine(matrix), series)
    np.testing.assert_allclose(read_transform(path).matrix, matrix, atol=1e-9)
    content = pydicom.dcmread(path)
    assert content.SOPClassUID == SPATIAL and content.Modality == "REG" and content.FrameOfReferenceUID == "1.2.7"
    still, moved = content.RegistrationSequence
    assert (still.FrameOfReferenceUID, moved.FrameOfReferenceUID) == ("1.2.7", "1.2.9")
    item = moved.MatrixRegistrationSequence[0].MatrixSequence[0]
    assert item.FrameOfReferenceTransformationMatrixType == kind
    lps = np.diag([-1.0, -1, 1, 1])
    stated = np.array(item.FrameOfReferenceTransformationMatrix, dtype=float).reshape(4, 4)  # moving to fixed points
    np.testing.assert_allclose(stated, lps @ np.linalg.inv(matrix) @ lps, atol=1e-8)


@pytest.mark.parametrize("flip", [False, True], ids=["right-handed", "left-handed"])
def test_deformable_registration_is_read_back_and_follows_the_standard(tmp_path, series, flip):
    grid = grid_of(series[0])
    if flip:
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, 1] * (grid.shape[1] - 1)
        affine[:3, 1] *= -1
        grid = Grid(grid.shape, affine)
    transform = SpatialTransform((FieldStep(bumps(grid), grid), AffineStep(AFFINE)))
    path = written(tmp_path, transform, series)
    points = grid.points().reshape(-1, 3)
    np.testing.assert_allclose(read_transform(path).points(points), transform.points(points), atol=1e-4)
    lps = np.array([-1.0, -1, 1])
    for index in ((0, 0, 0), (2, 1, 3), (4, 5, 4)):
        start, end = standard_map(path, index)
        np.testing.assert_allclose(end, transform.points((start * lps)[None])[0] * lps, atol=1e-4)


def test_deformable_registration_of_a_sheared_grid_covers_it(tmp_path, series):
    affine = np.array([[2.0, 0, 0.4, 5], [0, 3, 0.6, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    grid = Grid((12, 10, 8), affine)
    x = grid.points()
    smooth = np.moveaxis(0.02 * x[..., [1, 2, 0]] + 1, -1, 0).astype(np.float32)  # linear, so that resampling is exact
    path = written(tmp_path, SpatialTransform((FieldStep(smooth, grid),)), series)
    inner = grid.points()[3:-3, 3:-3, 3:-3].reshape(-1, 3)
    expected = inner + 0.02 * inner[:, [1, 2, 0]] + 1
    np.testing.assert_allclose(read_transform(path).points(inner), expected, atol=1e-3)
    corners = grid.points()[::11, ::9, ::7].reshape(-1, 3)
    found = read_transform(path).steps[0].grid
    voxels = (corners - found.affine[:3, 3]) @ np.linalg.inv(found.affine[:3, :3]).T
    assert (voxels > -1e-6).all() and (voxels < np.array(found.shape) - 1 + 1e-6).all()


def test_several_steps_are_written_as_one_field_and_a_matrix(tmp_path, series):
    grid = grid_of(series[0])
    coarse = Grid((3, 3, 3), grid.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    transform = SpatialTransform((FieldStep(bumps(grid), grid), FieldStep(bumps(coarse, 1), coarse), AffineStep(AFFINE)))
    path = written(tmp_path, transform, series)
    points = grid.points().reshape(-1, 3)
    np.testing.assert_allclose(read_transform(path).points(points), transform.points(points), atol=1e-3)


def test_matrix_before_the_deformation(tmp_path, series):
    """The offset is that of the grid point, not of the point after the first matrix (PS3.3 C.20.3.1.1)."""
    grid = grid_of(series[0])
    path = written(tmp_path, SpatialTransform((FieldStep(bumps(grid), grid), AffineStep(AFFINE))), series)
    content = pydicom.dcmread(path)
    item = content.DeformableRegistrationSequence[1]
    lps = np.diag([-1.0, -1, 1, 1])
    matrix = (lps @ RIGID @ lps).ravel().tolist()
    item.PreDeformationMatrixRegistrationSequence[0].FrameOfReferenceTransformationMatrix = matrix
    content.save_as(path)
    start, end = standard_map(path, (1, 2, 3))
    np.testing.assert_allclose(read_transform(path).points((start * [-1, -1, 1])[None])[0] * [-1, -1, 1], end, atol=1e-4)


def test_objects_belong_to_the_study_of_the_fixed_image_and_name_both_series(tmp_path, series):
    path = written(tmp_path, SpatialTransform((FieldStep(bumps(grid_of(series[0])), grid_of(series[0])),)), series)
    content = pydicom.dcmread(path)
    assert content.SOPClassUID == DEFORMABLE == content.file_meta.MediaStorageSOPClassUID
    assert (content.PatientName, content.StudyInstanceUID) == ("Doe^Jane", "1.2.3")
    files = [{pydicom.dcmread(file).SOPInstanceUID for file in folder.iterdir()} for folder in series]
    near = content.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    far = content.StudiesContainingOtherReferencedInstancesSequence[0]
    assert {item.ReferencedSOPInstanceUID for item in near} == files[0] and far.StudyInstanceUID == "1.2.8"
    assert {i.ReferencedSOPInstanceUID for i in far.ReferencedSeriesSequence[0].ReferencedInstanceSequence} == files[1]
    assert content.SeriesInstanceUID != "1.2.3.4" and content.SOPInstanceUID not in files[0] | files[1]


def test_refusals_of_registration_objects(tmp_path, series):
    path, affine = tmp_path / "registration.dcm", SpatialTransform.of_affine(AFFINE)
    with pytest.raises(InputError, match="refers to the fixed image"):
        write_transform(path, affine, moving=series[1])
    with pytest.raises(InputError, match="not one; give its file or folder"):
        write_transform(path, affine, fixed=grid_of(series[0]), moving=series[1])
    without = write_series(tmp_path / "without", places(AXIAL, 3))
    with pytest.raises(InputError, match="moving image: has no Frame of Reference UID"):
        write_transform(path, affine, fixed=series[0], moving=without)
    written(tmp_path, affine, series)
    content = pydicom.dcmread(path)
    content.RegistrationSequence[0].MatrixRegistrationSequence = content.RegistrationSequence[1].MatrixRegistrationSequence
    content.save_as(path)
    with pytest.raises(InputError, match="registers 2 images"):
        read_transform(path)


def test_undefined_and_truncated_grids_are_refused(tmp_path, series):
    grid = grid_of(series[0])
    path = written(tmp_path, SpatialTransform((FieldStep(bumps(grid), grid),)), series)
    content = pydicom.dcmread(path)
    data = content.DeformableRegistrationSequence[1].DeformableRegistrationGridSequence[0]
    vectors = np.frombuffer(data.VectorGridData, "<f4").copy()
    vectors[3:6] = np.nan
    for values, message in ((vectors, "undefined at 1 grid points"), (vectors[:-3], "is it complete")):
        data.VectorGridData = values.tobytes()
        content.save_as(path)
        with pytest.raises(InputError, match=message):
            read_transform(path)


@pytest.mark.parametrize("plane", PLANES)
def test_series_lies_where_the_image_lies(tmp_path, series, plane):
    """Our own reader finds the same values at the same places; ITK's is compared in the next test."""
    fixed = write_series(tmp_path / plane, places(PLANES[plane], 5), PLANES[plane], volumes=NEAR)
    grid = grid_of(fixed)
    values = np.random.default_rng(0).integers(-900, 2000, grid.shape).astype(np.float32)
    files = images.write_series(tmp_path / "out", values, grid, fixed, series[1])
    assert [file.name for file in files] == [f"{k:04d}.dcm" for k in range(1, 6)]
    stored = read_dicom(tmp_path / "out", "image")
    np.testing.assert_allclose(stored.affine, grid.affine, atol=1e-6)
    np.testing.assert_array_equal(stored.voxels[..., 0], values)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [file.name for file in files]


def test_itk_reads_the_series_likewise(tmp_path, series):
    import itk

    grid = grid_of(series[0])
    values = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    files = images.write_series(tmp_path / "out", values, grid, *series)
    image = itk.imread([str(file) for file in files], pixel_type=itk.F)
    found = itk.array_from_image(image).transpose(2, 1, 0)
    spread = values.max() - values.min()
    np.testing.assert_allclose(found, values, atol=spread / 65535)
    direction = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    np.testing.assert_allclose(direction, grid.affine[:3, :3] * [[-1], [-1], [1]], atol=1e-5)
    np.testing.assert_allclose(np.array(image.GetOrigin()), grid.affine[:3, 3] * [-1, -1, 1], atol=1e-5)


def test_series_is_derived_and_keeps_what_describes_the_values(tmp_path, series):
    first = next(iter(sorted(series[1].iterdir())))
    content = pydicom.dcmread(first)
    content.EchoTime, content.WindowCenter, content.SeriesDescription = 12, 40, "T2"
    content.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    for file in series[1].iterdir():
        other = pydicom.dcmread(file)
        other.EchoTime, other.WindowCenter, other.SeriesDescription = 12, 40, "T2"
        other.ImageType = content.ImageType
        other.save_as(file)
    grid = grid_of(series[0])
    files = images.write_series(tmp_path / "out", np.zeros(grid.shape), grid, *series)
    made = [pydicom.dcmread(file) for file in files]
    assert {slice_.SeriesInstanceUID for slice_ in made} - {"1.2.3.4"} and len({s.SeriesInstanceUID for s in made}) == 1
    assert len({s.SOPInstanceUID for s in made}) == len(made)
    head = made[0]
    assert (head.FrameOfReferenceUID, head.StudyInstanceUID, head.PatientName) == ("1.2.7", "1.2.3", "Doe^Jane")
    assert (float(head.EchoTime), float(head.WindowCenter)) == (12, 40)
    assert list(head.ImageType) == ["DERIVED", "SECONDARY", "M"] and head.SeriesDescription.startswith("T2 on ")
    assert head.DerivationCodeSequence[0].CodeValue == "113085"
    sources = {item.ReferencedSOPInstanceUID for item in head.SourceImageSequence}
    assert sources == {pydicom.dcmread(file).SOPInstanceUID for file in series[1].iterdir()}


def test_series_is_not_mixed_with_another(tmp_path, series):
    grid = grid_of(series[0])
    with pytest.raises(InputError, match="would mix"):
        images.write_series(series[0], np.zeros(grid.shape), grid, *series)
    with pytest.raises(InputError, match="one volume"):
        images.write_series(tmp_path / "out", np.zeros((2, *grid.shape)), grid, *series)
