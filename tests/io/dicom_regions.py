# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""RTSTRUCT and SEG objects of round regions on a small series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RTStructureSetStorage, SegmentationStorage

from monai_locor.geometry import Grid
from monai_locor.io.dicom import dicom_geometry, dicom_volumes

from .dicom_files import AXIAL, dataset, item, normal, save

SHAPE, SPACING, GAP = (40, 36, 12), (2.0, 2.0), 3.0  # columns, rows, slices; mm
ORIGIN = (-30.0, -25.0, 10.0)
CENTER, RADIUS = np.array([8.5, 9.0, 27.0]), 13.0  # LPS mm along the axes of an axial series
FRAME = {"fixed": "1.2.7", "moving": "1.2.9"}
PATIENT = {"PatientName": "Doe^Jane", "PatientID": "P1", "PatientBirthDate": "19700101", "PatientSex": "F", "Laterality": "R"}
STUDY = {"StudyDate": "20260131", "StudyTime": "101010", "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": ""}


def series(folder: Path, role: str, orientation: Sequence[float] = AXIAL, origin: Sequence[float] = ORIGIN) -> Path:
    """A series of empty slices, ``"fixed"`` or ``"moving"``."""
    uid = f"1.2.{len(role)}.{sum(map(ord, folder.name))}"
    pixels = np.zeros(SHAPE[1::-1], np.int16)
    for k in range(SHAPE[2]):
        place = [float(x) for x in np.round(np.asarray(origin) + k * GAP * normal(orientation), 6)]
        geometry = {"ImagePositionPatient": place, "ImageOrientationPatient": list(orientation)}
        geometry |= {"PixelSpacing": list(SPACING), "SliceThickness": GAP, "InstanceNumber": k + 1}
        geometry |= {"FrameOfReferenceUID": FRAME[role], "SOPInstanceUID": f"{uid}.1.{k + 1}"}
        save(folder / f"{k:03d}.dcm", dataset(pixels, MRImageStorage, uid, **geometry, **PATIENT, **STUDY))
    return folder


def grid_of(folder: Path) -> Grid:
    return Grid(*dicom_geometry(folder, "image"))


def circle(center: Sequence[float], radius: float, count: int = 72) -> np.ndarray:
    """A circle in an axial plane, LPS mm."""
    angle = np.arange(count) * 2 * np.pi / count
    return np.asarray(center) + radius * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)


def shell(inner: float = 5.0) -> list[np.ndarray]:
    """A ball with a hole on the slices of an axial series: two contours a slice in the middle."""
    out = []
    for z in ORIGIN[2] + GAP * np.arange(SHAPE[2]):
        center = (*CENTER[:2], z)
        out += [circle(center, np.sqrt(r**2 - (z - CENTER[2]) ** 2)) for r in (RADIUS, inner) if abs(z - CENTER[2]) < r - 1]
    return out


def rtstruct(path: Path, regions: Mapping[str, Sequence[tuple[str, np.ndarray]]], frame: str = FRAME["moving"]) -> Path:
    """An RTSTRUCT object of regions, each of types and points of contours; numbers are 3, 4, ..."""
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    out.SOPInstanceUID = out.file_meta.MediaStorageSOPInstanceUID = "1.2.8.2"
    out.SpecificCharacterSet, out.Modality, out.PatientID = "ISO_IR 100", "RTSTRUCT", "P1"
    out.StudyInstanceUID, out.SeriesInstanceUID = "1.2.8", "1.2.8.1"
    out.StructureSetLabel, out.ApprovalStatus = "plan 1", "APPROVED"
    out.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID=frame)]
    out.StructureSetROISequence, out.ROIContourSequence, out.RTROIObservationsSequence = [], [], []
    for number, (name, contours) in enumerate(regions.items(), 3):
        named = item(ROINumber=number, ROIName=name, ROIGenerationAlgorithm="MANUAL", ReferencedFrameOfReferenceUID=frame)
        out.StructureSetROISequence.append(named)
        parts = [
            item(ContourGeometricType=kind, NumberOfContourPoints=len(points), ContourData=[f"{x:.5f}" for x in points.ravel()])
            for kind, points in contours
        ]
        colored = item(ReferencedROINumber=number, ROIDisplayColor=[255, number, 0])
        if parts:
            colored.ContourSequence = parts
        out.ROIContourSequence.append(colored)
        seen = item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        out.RTROIObservationsSequence.append(seen)
    return save(path, out)


def closed(contours: Sequence[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return [("CLOSED_PLANAR", contour) for contour in contours]


def contours_in(path_or_data: Any, number: int) -> list[np.ndarray]:
    """The contours of a region of an RTSTRUCT object, LPS mm."""
    found = next(part for part in path_or_data.ROIContourSequence if part.ReferencedROINumber == number)
    return [np.array(part.ContourData, dtype=float).reshape(-1, 3) for part in found.get("ContourSequence") or ()]


def mask_of(contours: Sequence[np.ndarray], grid: Grid) -> np.ndarray:
    """Voxel centers inside an odd number of contours, by the winding of angles, independently of the package."""
    out = np.zeros(grid.shape, dtype=bool)
    x, y = np.meshgrid(*map(np.arange, grid.shape[:2]), indexing="ij")
    for contour in contours:
        voxels = (contour * (-1, -1, 1) - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
        around = voxels[:, :2, None, None] - np.stack([x, y])
        angle = np.arctan2(around[:, 1], around[:, 0])
        turn = np.diff(np.concatenate([angle, angle[:1]]), axis=0)
        turns = np.rint(((turn + np.pi) % (2 * np.pi) - np.pi).sum(0) / (2 * np.pi))
        out[..., round(float(voxels[:, 2].mean()))] ^= turns % 2 != 0
    return out


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


CODES = {"CodingSchemeDesignator": "SCT"}
TISSUE = item(CodeValue="85756007", CodeMeaning="Tissue", **CODES)
KIDNEY = item(CodeValue="64033007", CodeMeaning="Kidney", **CODES)


def segmentation(path: Path, folder: Path, masks: Sequence[np.ndarray], **elements: Any) -> Path:
    """A binary SEG object of masks ``(X, Y, Z)`` on the grid of a series; empty frames are left out."""
    frames = [(n, k, mask[..., k].T) for n, mask in enumerate(masks, 1) for k in range(mask.shape[2]) if mask[..., k].any()]
    slices = dicom_volumes(folder, "image").frames[0]
    out = dataset(np.zeros((len(frames), *SHAPE[1::-1]), np.uint8), SegmentationStorage)
    out.SOPInstanceUID = out.file_meta.MediaStorageSOPInstanceUID = "1.2.8.3"
    bits = np.packbits(np.stack([mask for _, _, mask in frames]).astype(np.uint8).ravel(), bitorder="little").tobytes()
    out.PixelData, out.BitsAllocated, out.BitsStored, out.HighBit = bits + b"\0" * (len(bits) % 2), 1, 1, 0
    out.Modality, out.SegmentationType, out.FrameOfReferenceUID, out.PatientID = "SEG", "BINARY", FRAME["moving"], "P1"
    out.SegmentSequence = [
        item(
            SegmentNumber=n + 1,
            SegmentLabel=f"organ {n + 1}",
            SegmentAlgorithmType="MANUAL",
            SegmentedPropertyCategoryCodeSequence=[TISSUE],
            SegmentedPropertyTypeCodeSequence=[KIDNEY],
            RecommendedDisplayCIELabValue=[100 * (n + 1), 200, 300],
        )
        for n in range(len(masks))
    ]
    orientation = slices[0].header.numbers(0x00200037)
    measures = item(PixelSpacing=list(SPACING), SliceThickness=GAP, SpacingBetweenSlices=GAP)
    plane = item(ImageOrientationPatient=list(orientation))
    out.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[plane])]
    out.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[float(x) for x in slices[k].position])],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=n)],
        )
        for n, k, _ in frames
    ]
    for key, value in elements.items():
        setattr(out, key, value)
    return save(path, out)


def ball(grid: Grid, center: Sequence[float] = CENTER, radius: float = RADIUS) -> np.ndarray:
    """Voxels in a ball around a center, LPS mm."""
    return np.linalg.norm(grid.points() * (-1, -1, 1) - center, axis=-1) < radius
