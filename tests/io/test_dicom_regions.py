# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""RTSTRUCT and SEG objects carried over to the fixed image."""

from __future__ import annotations

import logging

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from monai_locor.errors import InputError
from monai_locor.geometry import FieldStep, SpatialTransform
from monai_locor.io.dicom import contours, read_dicom
from monai_locor.io.dicom.rtstruct import carry_structures
from monai_locor.io.dicom.segmentations import carry_segments

from .dicom_files import CORONAL, OBLIQUE, SAGITTAL
from .dicom_regions import (
    CENTER,
    FRAME,
    ball,
    circle,
    closed,
    contours_in,
    dice,
    grid_of,
    mask_of,
    rtstruct,
    segmentation,
    series,
    shell,
)

IDENTITY = SpatialTransform.of_affine(np.eye(4))
SHIFT = np.array([3.3, -2.7, 4.1])  # RAS mm


def shifted(by: np.ndarray = SHIFT) -> SpatialTransform:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return SpatialTransform.of_affine(matrix)


def distance(points: np.ndarray, polygons: list[np.ndarray]) -> np.ndarray:
    """Distance of points from the edges of polygons, all in one plane."""
    start = np.concatenate(polygons)
    way = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons]) - start
    share = (((points[:, None] - start) * way).sum(-1) / (way**2).sum(-1)).clip(0, 1)
    return np.linalg.norm(points[:, None] - start - share[..., None] * way, axis=-1).min(axis=1)


@pytest.fixture
def fixed(tmp_path):
    return series(tmp_path / "fixed", "fixed")


@pytest.fixture
def moving(tmp_path):
    return series(tmp_path / "moving", "moving")


def test_coverage_is_exact_along_a_line_and_holes_are_left_out():
    square = np.array([[0.5, 0.5], [6.25, 0.5], [6.25, 4.5], [0.5, 4.5]])
    hole = np.array([[2.5, 1.5], [3.5, 1.5], [3.5, 2.5], [2.5, 2.5]])
    covered = contours.coverage([square, hole[::-1]], (8, 6))
    expected = np.zeros((8, 6))
    expected[1:6, 1:5], expected[6, 1:5], expected[3, 2] = 1, 0.75, 0
    np.testing.assert_allclose(covered, expected, atol=1e-6)
    turned = contours.coverage([square[:, ::-1]], (6, 8))
    np.testing.assert_allclose(turned.sum(), 5.75 * 4, rtol=1e-2)


def test_coverage_of_a_disk_outside_of_the_image_on_all_sides():
    disk = circle((3, 2, 0), 50)[:, :2]
    np.testing.assert_allclose(contours.coverage([disk], (7, 5)), 1, atol=1e-6)
    assert contours.coverage([disk + (100, 0)], (7, 5)).sum() == contours.coverage([disk + (0, 100)], (7, 5)).sum() == 0


def test_outlines_of_covered_pixels_are_the_contours():
    disk, hole = circle((20.3, 15.6, 0), 11)[:, :2], circle((22.1, 14, 0), 4)[:, :2]
    found = contours.outlines(contours.coverage([disk, hole], (40, 34)))
    assert len(found) == 2
    for outline in found:
        assert distance(outline, [disk, hole]).max() < 0.1
    assert contours.outlines(np.zeros((4, 4))) == []
    (full,) = contours.outlines(np.ones((4, 3)))  # to the outer edges of the pixels
    np.testing.assert_allclose((full.min(0), full.max(0)), ((-0.5, -0.5), (3.5, 2.5)), atol=1e-6)


def test_keyholes_join_holes_to_the_contour_around_them():
    ring = [circle((20, 20, 0), radius)[:, :2] for radius in (18, 12, 7, 3)]  # an island with a hole in a hole
    small = [circle((55, 12, 0), 8)[:, :2], circle((52, 12, 0), 2)[:, :2], circle((58, 13, 0), 2)[:, :2]]
    covered = contours.coverage([*ring, *small], (70, 41))
    found = contours.outlines(covered)
    joined = contours.keyholes(found)
    assert (len(found), len(joined)) == (7, 3) and contours.keyholes([]) == []
    np.testing.assert_allclose(contours.coverage(joined, (70, 41)), contours.coverage(found, (70, 41)), atol=1e-6)
    areas = [contours.coverage([polygon], (70, 41)) for polygon in joined]
    np.testing.assert_allclose(np.max(areas, axis=0), contours.coverage(found, (70, 41)), atol=1e-6)  # a union of them


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_identity_keeps_contours_and_holes(tmp_path, fixed, moving, kind):
    given = shell()
    source = rtstruct(tmp_path / "rs.dcm", {"shell": [(kind, contour) for contour in given]})
    counts = carry_structures(source, tmp_path / "out.dcm", IDENTITY, fixed, moving)
    made = pydicom.dcmread(tmp_path / "out.dcm")
    found, grid = contours_in(made, 3), grid_of(fixed)
    slices = len({contour[0, 2] for contour in given})
    assert slices < len(given)
    assert counts == {"3 shell": len(found)} and len(found) == (slices if kind == "CLOSED_PLANAR" else len(given))
    assert {part.ContourGeometricType for part in made.ROIContourSequence[0].ContourSequence} == {kind}
    again = carry_structures(tmp_path / "out.dcm", tmp_path / "again.dcm", IDENTITY, fixed, fixed)
    assert (
        again == counts
        and dice(mask_of(contours_in(pydicom.dcmread(tmp_path / "again.dcm"), 3), grid), mask_of(given, grid)) > 0.98
    )
    assert dice(mask_of(found, grid), mask_of(given, grid)) > 0.98
    for contour in found:
        beside = [other for other in given if abs(other[0, 2] - contour[0, 2]) < 0.1]
        assert distance(contour, beside).max() < 1  # half a pixel


def test_translation_moves_the_centroid(tmp_path, fixed, moving):
    given = [contour for contour in shell(inner=0.0) if len(contour)]
    source = rtstruct(tmp_path / "rs.dcm", {"ball": closed(given)})
    carry_structures(source, tmp_path / "out.dcm", shifted([3.3, -2.7, 6.0]), fixed, moving)  # two slices
    found = contours_in(pydicom.dcmread(tmp_path / "out.dcm"), 3)
    assert len(found) == len(given)

    def centroid(polygons):
        areas, centers = [], []
        for polygon in polygons:
            x, y, z = polygon.T
            cross = x * np.roll(y, -1) - y * np.roll(x, -1)
            area = cross.sum() / 2
            center = [((v + np.roll(v, -1)) * cross).sum() / (6 * area) for v in (x, y)]
            areas.append(abs(area))
            centers.append([*center, z.mean()])
        return np.average(centers, axis=0, weights=areas)

    moved = (centroid(found) - centroid(given)) * (-1, -1, 1)
    np.testing.assert_allclose(moved, (-3.3, 2.7, -6.0), atol=0.1)  # 0.05 pixels


@pytest.mark.parametrize("orientation", [CORONAL, SAGITTAL, OBLIQUE], ids=["coronal", "sagittal", "oblique"])
def test_fixed_slices_in_another_orientation(tmp_path, moving, orientation):
    middle = 20 * np.array(orientation[:3]) * 2 + 18 * np.array(orientation[3:]) * 2
    normal = np.cross(orientation[:3], orientation[3:])
    fixed = series(tmp_path / "fixed", "fixed", orientation, CENTER - middle - 16.5 * normal)
    source = rtstruct(tmp_path / "rs.dcm", {"ball": closed(shell(inner=0.0))})
    carry_structures(source, tmp_path / "out.dcm", IDENTITY, fixed, moving)
    grid = grid_of(fixed)
    found = contours_in(pydicom.dcmread(tmp_path / "out.dcm"), 3)
    assert dice(mask_of(found, grid), ball(grid)) > 0.9  # the contours are those of slices of 3 mm


def test_deformation(tmp_path, fixed, moving):
    grid = grid_of(fixed)
    field = np.moveaxis(2 * np.sin(0.1 * (grid.points() - grid.center)[..., [1, 2, 0]]), -1, 0).astype(np.float32)
    transform = SpatialTransform((FieldStep(field, grid),))
    spot = CENTER + np.array([[0.0, 0.0, 0.0], [4.0, 3.0, -2.0]])
    source = rtstruct(tmp_path / "rs.dcm", {"ball": closed(shell(inner=0.0)), "spots": [("POINT", spot)]})
    carry_structures(source, tmp_path / "out.dcm", transform, fixed, moving)
    spots = np.concatenate(contours_in(pydicom.dcmread(tmp_path / "out.dcm"), 4))
    np.testing.assert_allclose(transform.points(spots * (-1, -1, 1)) * (-1, -1, 1), spot, atol=0.02)
    found = mask_of(contours_in(pydicom.dcmread(tmp_path / "out.dcm"), 3), grid)
    inside = np.linalg.norm(transform.points(grid.points().reshape(-1, 3)) * (-1, -1, 1) - CENTER, axis=1) < 13
    assert dice(found, inside.reshape(grid.shape)) > 0.93


@pytest.mark.filterwarnings("ignore:The value for the data element")
def test_contours_of_more_than_64_kb_in_explicit_encoding(tmp_path, fixed, moving):
    """They are stored with an unknown value representation, as the length of decimal text has 16 bits."""
    source = rtstruct(tmp_path / "rs.dcm", {"a": closed([circle((*CENTER[:2], 19), 12, count=4000)])})
    carry_structures(source, tmp_path / "out.dcm", IDENTITY, fixed, moving)
    (found,) = contours_in(pydicom.dcmread(tmp_path / "out.dcm"), 3)
    np.testing.assert_allclose(np.linalg.norm(found[:, :2] - CENTER[:2], axis=1), 12, atol=0.3)


def test_object_belongs_to_the_fixed_series(tmp_path, fixed, moving):
    spot = np.array([[4.0, 5.0, 20.2]])
    regions = {"Röhre": closed(shell()), "spot": [("POINT", spot)], "empty": []}
    source = rtstruct(tmp_path / "rs.dcm", regions)
    carry_structures(source, tmp_path / "out.dcm", shifted(), fixed, moving)
    made, given = (pydicom.dcmread(tmp_path / name) for name in ("out.dcm", "rs.dcm"))
    assert [(roi.ROINumber, roi.ROIName) for roi in made.StructureSetROISequence] == [(3, "Röhre"), (4, "spot"), (5, "empty")]
    assert [list(part.ROIDisplayColor) for part in made.ROIContourSequence] == [[255, n, 0] for n in (3, 4, 5)]
    assert [part.RTROIInterpretedType for part in made.RTROIObservationsSequence] == ["ORGAN"] * 3
    assert (made.StructureSetLabel, made.ApprovalStatus, made.PatientName) == ("plan 1", "UNAPPROVED", "Doe^Jane")
    assert made.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian  # contours of more than 64 kB
    assert made.SOPInstanceUID != given.SOPInstanceUID and made.SeriesInstanceUID != given.SeriesInstanceUID
    assert {roi.ReferencedFrameOfReferenceUID for roi in made.StructureSetROISequence} == {FRAME["fixed"]}
    place = {str(d.SOPInstanceUID): float(d.ImagePositionPatient[2]) for d in map(pydicom.dcmread, fixed.iterdir())}
    referenced = made.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert {part.ReferencedSOPInstanceUID for part in referenced.ContourImageSequence} == set(place)
    for part in made.ROIContourSequence[0].ContourSequence:
        heights = np.array(part.ContourData, dtype=float)[2::3]
        np.testing.assert_allclose(heights, place[part.ContourImageSequence[0].ReferencedSOPInstanceUID], atol=1e-4)
    np.testing.assert_allclose(contours_in(made, 4)[0], spot - SHIFT * (-1, -1, 1), atol=1e-4)
    assert contours_in(made, 5) == []


def test_regions_that_leave_the_image_are_named(tmp_path, fixed, moving, caplog):
    near, far = circle((40, 10, 19), 12), circle((-20, -15, 19), 4)
    source = rtstruct(tmp_path / "rs.dcm", {"near": closed([near]), "far": closed([far])})
    with caplog.at_level(logging.WARNING):
        counts = carry_structures(source, tmp_path / "out.dcm", shifted([30.0, 0, 0]), fixed, moving)
    assert counts["4 far"] == 1 and "4 near" not in counts
    assert counts["3 near"] == 0 and "without contours: near" in caplog.text
    with pytest.raises(InputError, match="none of its regions lies in the reference image"):
        carry_structures(source, tmp_path / "out2.dcm", shifted([500.0, 0, 0]), fixed, moving)


@pytest.mark.parametrize(
    ("regions", "frame", "words"),
    [
        ({"a": closed([circle((0, 0, 19), 5)])}, "1.2.99", "has the frame of reference 1.2.99, the series given 1.2.9"),
        ({"a": [("OPEN_PLANAR", circle((0, 0, 19), 5))]}, FRAME["moving"], "contour of type OPEN_PLANAR"),
        ({"a": closed([circle((0, 0, 20.5), 5)])}, FRAME["moving"], "not on a slice of the series given"),
        ({"a": closed([circle((0, 0, 190), 5)])}, FRAME["moving"], "not on a slice of the series given"),
        ({"a": closed([circle((0, 0, 19), 5)[:, [2, 0, 1]]])}, FRAME["moving"], "not on a slice of the series given"),
        ({"a": closed([circle((0, 0, 19), 5).ravel()[:-1]])}, FRAME["moving"], "not three finite ones a point"),
        ({"a": []}, FRAME["moving"], "its 1 regions of interest have no contours"),
    ],
    ids=["frame", "open", "between", "beyond", "tilted", "numbers", "empty"],
)
def test_refused(tmp_path, fixed, moving, regions, frame, words):
    source = rtstruct(tmp_path / "rs.dcm", regions, frame)
    with pytest.raises(InputError) as caught:
        carry_structures(source, tmp_path / "out.dcm", IDENTITY, fixed, moving)
    assert words in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out.dcm").exists()


def test_segments_are_the_same_after_the_identity(tmp_path, fixed, moving):
    grid = grid_of(moving)
    masks = [ball(grid), ball(grid, CENTER + (20, 0, 0), 9.0), ball(grid) & ~ball(grid, radius=6.0)]  # overlapping
    source = segmentation(tmp_path / "seg.dcm", moving, masks)
    counts = carry_segments(source, tmp_path / "out.dcm", IDENTITY, fixed)
    assert counts == {f"{n} organ {n}": int(mask.sum()) for n, mask in enumerate(masks, 1)}
    made, given = (pydicom.dcmread(tmp_path / name) for name in ("out.dcm", "seg.dcm"))
    assert made.SegmentSequence == given.SegmentSequence and made.FrameOfReferenceUID == FRAME["fixed"]
    pixels = made.pixel_array
    place = {str(d.SOPInstanceUID): d.InstanceNumber - 1 for d in map(pydicom.dcmread, fixed.iterdir())}
    found = np.zeros((3, *grid.shape), dtype=bool)
    for frame, groups in zip(pixels, made.PerFrameFunctionalGroupsSequence, strict=True):
        k = place[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        found[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1, ..., k] = frame.T
    np.testing.assert_array_equal(found, masks)
    np.testing.assert_array_equal(
        np.moveaxis(read_dicom(tmp_path / "out.dcm", "image").voxels[:, :, :], -1, 0).sum((1, 2, 3)),
        [mask.sum() for mask in masks],
    )


def test_segments_on_slices_of_their_own_keep_their_numbers(tmp_path, fixed, moving):
    grid = grid_of(moving)
    masks = np.zeros((2, *grid.shape), dtype=bool)
    masks[0, 5:20, 5:18, 2:4], masks[1, 12:30, 8:20, 6:9] = True, True
    source = segmentation(tmp_path / "seg.dcm", moving, masks)
    counts = carry_segments(source, tmp_path / "out.dcm", IDENTITY, fixed)
    assert counts == {"1 organ 1": int(masks[0].sum()), "2 organ 2": int(masks[1].sum())}


def test_segments_move_with_the_transform(tmp_path, fixed, moving):
    source = segmentation(tmp_path / "seg.dcm", moving, [ball(grid_of(moving))])
    carry_segments(source, tmp_path / "out.dcm", shifted(), fixed)
    made = read_dicom(tmp_path / "out.dcm", "image")
    points = np.argwhere(made.voxels[..., 0] > 0) @ made.affine[:3, :3].T + made.affine[:3, 3]
    np.testing.assert_allclose(points.mean(0), CENTER * (-1, -1, 1) - SHIFT, atol=0.3)


@pytest.mark.parametrize(
    ("elements", "transform", "words"),
    [
        ({"SegmentationType": "FRACTIONAL"}, IDENTITY, "of type FRACTIONAL; only BINARY segments"),
        ({}, shifted([500.0, 0, 0]), "none of its segments lies in the reference image"),
    ],
    ids=["fractional", "outside"],
)
def test_segments_refused(tmp_path, fixed, moving, elements, transform, words):
    source = segmentation(tmp_path / "seg.dcm", moving, [ball(grid_of(moving))], **elements)
    with pytest.raises(InputError) as caught:
        carry_segments(source, tmp_path / "out.dcm", transform, fixed)
    assert words in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out.dcm").exists()


@pytest.mark.filterwarnings("ignore")  # of pydicom, about values
@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
def test_damaged_objects_are_refused_in_one_line(tmp_path, fixed, moving, kind):
    if kind == "RTSTRUCT":
        whole = rtstruct(tmp_path / "whole.dcm", {"a": closed(shell())}).read_bytes()
    else:
        whole = segmentation(tmp_path / "whole.dcm", moving, [ball(grid_of(moving))]).read_bytes()
    random, target, refusals = np.random.default_rng(0), tmp_path / "out.dcm", []
    for trial in range(12):
        data = bytearray(whole[: len(whole) // 2 if trial == 0 else None])
        for place in random.integers(132, len(data), 6 * trial):
            data[place] = random.integers(256)
        source = tmp_path / f"{trial}.dcm"
        source.write_bytes(data)
        try:
            if kind == "RTSTRUCT":
                carry_structures(source, target, IDENTITY, fixed, moving)
            else:
                carry_segments(source, target, IDENTITY, fixed)
        except InputError as error:
            refusals.append(str(error))
        finally:
            target.unlink(missing_ok=True)
    assert refusals and not any("\n" in refusal for refusal in refusals)
