# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""DICOM files for tests, whose pixels tell where in the patient they lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from monai_locor.errors import InputError
from monai_locor.io.dicom import dicom_geometry, headers, pixels, read_dicom
from monai_locor.io.stored_image import StoredImage

AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)
PLANES = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL, "oblique": OBLIQUE}

ROWS, COLUMNS, SPACING = 6, 5, (2.0, 3.0)  # mm from row to row, and from column to column
SLOPES, STEP = np.array([7.0, 11.0, 13.0]), 3000  # of pixels along LPS, and from one volume to the next
SERIES = "1.2.3.4"


def normal(orientation: Sequence[float]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def places(orientation: Sequence[float], count: int, gap: float = 4.0) -> list[np.ndarray]:
    """Positions of slices."""
    return [np.array([1.0, -2.0, 3.0]) + k * gap * normal(orientation) for k in range(count)]


def painted(
    position: Sequence[float],
    orientation: Sequence[float] = AXIAL,
    volume: int = 0,
    size: tuple[int, int] = (ROWS, COLUMNS),
    spacing: tuple[float, float] = SPACING,
) -> np.ndarray:
    """Pixels that are a linear function of their own position, plus STEP for each volume."""
    rows, columns = np.meshgrid(*map(np.arange, size), indexing="ij")
    beside, below = np.array(orientation[:3]) * spacing[1], np.array(orientation[3:]) * spacing[0]
    points = np.asarray(position) + columns[..., None] * beside + rows[..., None] * below
    return np.rint(points @ SLOPES + STEP * volume).astype(np.int16)


def expected(shape: Sequence[int], affine: np.ndarray, volume: int = 0) -> np.ndarray:
    """What :func:`painted` would paint at every voxel of a grid (RAS)."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    points = (index @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1)
    return points @ SLOPES + STEP * volume


def dataset(pixels: np.ndarray, sop_class: str, series: str = SERIES, **elements: Any) -> Dataset:
    """Of pixels ``(rows, columns)``, with frames before and colors behind."""
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = sop_class
    out.SOPInstanceUID = out.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    out.StudyInstanceUID, out.SeriesInstanceUID, out.Modality = "1.2.3", series, "MR"
    color = 3 if pixels.shape[-1] == 3 else 1
    shape = pixels.shape[:-1] if color == 3 else pixels.shape
    out.Rows, out.Columns = shape[-2:]
    out.SamplesPerPixel, out.PhotometricInterpretation = color, "RGB" if color == 3 else "MONOCHROME2"
    out.BitsAllocated = out.BitsStored = 8 * pixels.dtype.itemsize
    out.HighBit, out.PixelRepresentation = out.BitsStored - 1, int(pixels.dtype.kind == "i")
    if color == 3:
        out.PlanarConfiguration = 0
    if len(shape) == 3:
        out.NumberOfFrames = shape[0]
    out.PixelData = pixels.tobytes()
    for key, value in elements.items():
        setattr(out, key, value)
    return out


def save(path: Path, data: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def slice_of(position: Sequence[float], orientation: Sequence[float] = AXIAL, volume: int = 0, **elements: Any) -> Dataset:
    """A classic file of one slice."""
    placed = {"ImagePositionPatient": [float(f"{x:.10g}") for x in position], "ImageOrientationPatient": list(orientation)}
    geometry = {**placed, "PixelSpacing": list(SPACING), "SliceThickness": 4}
    return dataset(painted(position, orientation, volume), MRImageStorage, **{**geometry, **elements})


def write_series(
    folder: Path, positions: Sequence[Sequence[float]], orientation: Sequence[float] = AXIAL, volumes: Any = ({},)
) -> Path:
    """A folder of slices in shuffled order; ``volumes`` are the elements of each volume."""
    files = [slice_of(place, orientation, v, **more) for v, more in enumerate(volumes) for place in positions]
    for k, data in zip(np.random.default_rng(0).permutation(len(files)), files):
        data.InstanceNumber = len(files) - int(k) if "InstanceNumber" not in data else data.InstanceNumber
        save(folder / f"{k:03d}.dcm", data)
    return folder


def item(**elements: Any) -> Dataset:
    out = Dataset()
    for key, value in elements.items():
        setattr(out, key, value)
    return out


def enhanced(
    frames: Sequence[tuple[Sequence[float], int, Mapping[str, Any]]], orientation: Sequence[float] = AXIAL, **elements: Any
) -> Dataset:
    """An enhanced MR file of frames: position, volume, and their own functional groups."""
    pixels = np.stack([painted(place, orientation, volume) for place, volume, _ in frames])
    out = dataset(pixels, EnhancedMRImageStorage, **elements)
    measures = item(PixelSpacing=list(SPACING), SliceThickness=9)
    out.SharedFunctionalGroupsSequence = [
        item(PlaneOrientationSequence=[item(ImageOrientationPatient=list(orientation))], PixelMeasuresSequence=[measures])
    ]
    out.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[float(x) for x in place])], **groups)
        for place, _, groups in frames
    ]
    return out


def segmentation(frames: Sequence[tuple[Sequence[float], int]], pixels: np.ndarray) -> Dataset:
    """A SEG file of one bit a pixel; frames are position and number of the segment."""
    groups = [{"SegmentIdentificationSequence": [item(ReferencedSegmentNumber=number)]} for _, number in frames]
    out = enhanced([(place, 0, group) for (place, _), group in zip(frames, groups)])
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    out.SegmentationType = "BINARY"
    out.SegmentSequence = [item(SegmentNumber=number, SegmentLabel=f"organ {number}") for number in (1, 2)]
    out.BitsAllocated = out.BitsStored = 1
    out.HighBit = out.PixelRepresentation = 0
    bits = np.packbits(pixels.astype(np.uint8).ravel(), bitorder="little").tobytes()
    out.PixelData = bits + b"\0" * (len(bits) % 2)
    return out


def ultrasound(frames: int) -> Dataset:
    pixels = np.zeros((frames, ROWS, COLUMNS), np.uint8)
    return dataset(pixels, UltrasoundMultiFrameImageStorage, FrameTime=40, PixelSpacing=[1, 1])


def mosaic(
    count: int, volume: int = 0, orientation: Sequence[float] = AXIAL, csa_sign: int = 0, tag: bool = True, **elements: Any
) -> Dataset:
    """All slices of a volume as tiles of one picture, as Siemens stores them.

    Args:
        csa_sign: of the slice normal in the private CSA header; 0 leaves that header away.
        tag: whether to write the number of slices into its own private element.
    """
    side = int(np.ceil(np.sqrt(count)))
    step = 4.0 * normal(orientation) * (csa_sign or 1)
    first = np.array([1.0, -2.0, 3.0])
    picture = np.zeros((side * ROWS, side * COLUMNS), np.int16)
    for k in range(count):
        rows, columns = slice(k // side * ROWS, None), slice(k % side * COLUMNS, None)
        picture[rows, columns][:ROWS, :COLUMNS] = painted(first + k * step, orientation, volume)
    beside, below = np.array(orientation[:3]) * SPACING[1], np.array(orientation[3:]) * SPACING[0]
    corner = first - (side - 1) / 2 * (COLUMNS * beside + ROWS * below)  # as if the first slice were as big as the mosaic
    out = slice_of(corner, orientation, SpacingBetweenSlices=4, Manufacturer="SIEMENS", **elements)
    out.Rows, out.Columns, out.PixelData = *picture.shape, picture.tobytes()
    out.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    if tag:
        out.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", count)
    if csa_sign:
        stated = {"NumberOfImagesInMosaic": [count], "SliceNormalVector": normal(orientation) * csa_sign}
        out.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", _csa(stated))
    return out


def _csa(values: Mapping[str, Sequence[float]]) -> bytes:
    out = b"SV10\4\3\2\1" + struct.pack("<2I", len(values), 77)
    for name, numbers in values.items():
        out += struct.pack("<64si4s3i", name.encode(), len(numbers), b"FD", 4, len(numbers), 77)
        for number in numbers:
            text = f"{number:.8f}".encode().ljust(16, b"\0")
            out += struct.pack("<4i", len(text), len(text), 77, len(text)) + text
    return out


def read(path: Path) -> StoredImage:
    stored = read_dicom(path, "fixed image")
    shape, affine = dicom_geometry(path, "fixed image")
    assert shape == stored.shape
    np.testing.assert_array_equal(affine, stored.affine)
    return stored


def assert_in_place(stored: StoredImage, volumes: int = 1) -> None:
    """Every voxel lies where its value says."""
    assert stored.voxels.shape[-1] == volumes
    for v in range(volumes):
        np.testing.assert_allclose(stored.voxels[..., v], expected(stored.shape, stored.affine, v), atol=0.51)


def refusal(path: Path, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        read_dicom(path, "fixed image")
    message = str(caught.value)
    assert message.startswith("fixed image: ") and "\n" not in message and ";" in message
    for word in words:
        assert word in message
    return message


def without_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (headers, pixels):
        monkeypatch.setattr(module, "load_pydicom", lambda: None)
