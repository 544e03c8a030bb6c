# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The segments of a binary SEG object on another image (PS3.3 A.51)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...geometry import Grid, SpatialTransform
from ..lps import geometry_for_itk
from . import dicom_volumes, tags
from .frames import Frame
from .headers import needed_pydicom
from .image_slices import ImageSlices, open_slices, refusing_broken, warn_of_patients
from .pixels import load_voxels
from .propagation import LEVEL, Region, regions_on_slices
from .series import coded, decimal, new_object, refer_to, save

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["carry_segments"]

logger = logging.getLogger(__name__)

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
#: segment number, slice, and mask ``(rows, columns)``
Frames = list[tuple[int, int, np.ndarray]]


def carry_segments(path: Path, target: Path, transform: SpatialTransform, fixed: Any) -> dict[str, int]:
    """Write the segments of a binary SEG object of the moving image as a new SEG object of the fixed image.

    Each segment is resampled with linear interpolation; voxels of at least 0.5 belong to it. Segments may overlap. The items
    that describe the segments are kept.

    Args:
        path: SEG object.
        target: file to write.
        transform: from points of the fixed to points of the moving image.
        fixed: DICOM file or folder of the fixed image.

    Returns:
        the number of voxels by segment number and label.

    Raises:
        InputError: if the object is not binary or broken, or no segment lies in the fixed image.
    """
    name = f"SEG {path}"
    near = open_slices(fixed, "reference image")
    if transform.dims != 3:
        raise InputError(f"{name}: is 3-D, the transform {transform.dims}-D; give those of one pair")
    with refusing_broken(name):
        content = _read(path, name)
        warn_of_patients(near.series, content, name)
        labels = {int(item.SegmentNumber): item.get("SegmentLabel") or "" for item in content.SegmentSequence}
    titles = {number: f"{number} {label}".strip() for number, label in labels.items()}
    frames = _carried(path, list(labels), transform, near, name)
    if not frames:
        raise InputError(f"{name}: none of its segments lies in the reference image; check the transform and the images")
    lost = [title for number, title in titles.items() if number not in {frame[0] for frame in frames}]
    if lost:
        logger.warning("%s: empty, outside of the reference image or smaller than a voxel: %s", name, ", ".join(lost))
    with refusing_broken(name):
        save(_made(content, frames, near), target)
    return {title: sum(int(mask.sum()) for segment, _, mask in frames if segment == number) for number, title in titles.items()}


def _read(path: Path, name: str) -> Dataset:
    """The elements of the object, without pixels."""
    pydicom = needed_pydicom(name, "SEG objects are read")
    content: Dataset = pydicom.dcmread(path, stop_before_pixels=True)
    kind, count = content.get("SegmentationType"), len(content.get("SegmentSequence") or ())
    if kind != "BINARY" or not count:
        raise InputError(
            f"{name}: has {count} segments of type {kind or '(none)'}; only BINARY segments are carried over as SEG; "
            "write NIfTI without --dicom"
        )
    return content


def _carried(path: Path, numbers: Sequence[int], transform: SpatialTransform, near: ImageSlices, name: str) -> Frames:
    """Frames by segment, then by slice."""
    regions, grid = _regions(path, numbers, name)
    out: Frames = []
    cut = set()
    columns, rows = near.grid.shape[:2]
    known = sorted(regions)
    for part in regions_on_slices([regions[number] for number in known], transform, grid, near.grid):
        mask = np.zeros((rows, columns), dtype=bool)
        (x, y), (width, height) = part.corner.tolist(), part.values.shape
        mask[y : y + height, x : x + width] = part.values.T >= LEVEL
        out.append((known[part.region], part.k, mask))
        if part.at_edge:
            cut.add(known[part.region])
    if cut:
        listed = ", ".join(map(str, sorted(cut)))
        logger.warning("%s: segments that reach the edge of the reference image and may be cut off: %s", name, listed)
    return sorted(out, key=lambda frame: frame[:2])


def _regions(path: Path, numbers: Sequence[int], name: str) -> tuple[dict[int, Region], Grid]:
    """The segments that have voxels, and the grid of their slices."""
    volumes = dicom_volumes(path, name)
    frames = [frame for volume in volumes.frames for frame in volume if frame is not None]
    rows, columns = volumes.first.size
    count = len(volumes.frames[0])
    grid = Grid((columns, rows, count), volumes.affine)
    place = {id(frame): k for volume in volumes.frames for k, frame in enumerate(volume) if frame is not None}
    by_segment: dict[int, list[Frame | None]] = {}
    for frame in frames:
        number = int(frame.header.number(tags.REFERENCED_SEGMENT_NUMBER) or 0)
        if number not in numbers:
            raise InputError(f"{name}: a frame belongs to segment {number}, which is not described; export it again")
        by_segment.setdefault(number, [None] * count)[place[id(frame)]] = frame
    regions = {}
    for number, slices in by_segment.items():
        voxels = load_voxels([slices], name)[..., 0]
        if voxels.any():
            regions[number] = _region(voxels)
    if not regions:
        raise InputError(f"{name}: its segments are empty; export it again")
    return regions, grid


def _region(voxels: np.ndarray) -> Region:
    """The voxels that are not zero, in a box that has a margin of one voxel."""
    used = [np.flatnonzero(voxels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(int(along[0]), int(along[-1]) + 1) for along in used)
    values = np.pad((voxels[box] != 0).astype(np.float32), 1)
    return Region(values, np.array([side.start - 1 for side in box]))


def _made(content: Dataset, frames: Frames, near: ImageSlices) -> Dataset:
    label = str(content.get("ContentLabel") or "SEGMENTATION")
    title = str(content.get("SeriesDescription") or label)
    made = new_object(SEGMENTATION, near.series, "SEG", f"{title} on {near.series.title}")
    made.SpecificCharacterSet = "ISO_IR 192"  # of names from two objects
    made.FrameOfReferenceUID = near.series.frame_of_reference
    made.ImageType, made.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    made.ContentLabel, made.ContentCreatorName = label, content.get("ContentCreatorName")
    made.ContentDescription = "Carried over by image registration"
    made.SegmentSequence = copy.deepcopy(content.SegmentSequence)
    made.LossyImageCompression = "00"
    made.Columns, made.Rows = near.grid.shape[:2]
    made.NumberOfFrames, made.SamplesPerPixel, made.PhotometricInterpretation = len(frames), 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 1, 1, 0, 0
    _add_dimensions(made)
    made.SharedFunctionalGroupsSequence = [_shared(near)]
    used = sorted({k for _, k, _ in frames})
    made.PerFrameFunctionalGroupsSequence = [_per_frame(number, k, used.index(k) + 1, near) for number, k, _ in frames]
    refer_to(made, near.series)
    del made.Laterality  # of series of single frames
    bits = np.packbits(np.stack([mask for _, _, mask in frames]).ravel(), bitorder="little").tobytes()
    made.PixelData = bits + b"\0" * (len(bits) % 2)
    made["PixelData"].VR = "OB"
    return made


def _add_dimensions(made: Dataset) -> None:
    """Frames are ordered by segment and by position."""
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag
    from pydicom.uid import generate_uid

    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid(prefix=None)
    indices = []
    for keyword, group in (
        ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
        ("ImagePositionPatient", "PlanePositionSequence"),
    ):
        item = Dataset()
        item.DimensionOrganizationUID = organization.DimensionOrganizationUID
        item.DimensionIndexPointer, item.FunctionalGroupPointer = Tag(keyword), Tag(group)
        item.DimensionDescriptionLabel = keyword
        indices.append(item)
    made.DimensionOrganizationSequence, made.DimensionIndexSequence = [organization], indices


def _shared(near: ImageSlices) -> Dataset:
    """Pixel spacing and orientation."""
    from pydicom.dataset import Dataset

    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    direction, spacing, _ = geometry_for_itk(near.grid)
    measures.PixelSpacing = [decimal(spacing[1]), decimal(spacing[0])]
    measures.SliceThickness = measures.SpacingBetweenSlices = decimal(spacing[2])
    orientation.ImageOrientationPatient = [decimal(value) for value in direction[:, :2].T.ravel()]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    return shared


def _per_frame(number: int, k: int, order: int, near: ImageSlices) -> Dataset:
    """Segment, position and source image of a frame."""
    from pydicom.dataset import Dataset

    frame, place, index, segment, derivation = (Dataset() for _ in range(5))
    place.ImagePositionPatient = [decimal(value) for value in near.points(k, np.zeros((1, 2)))[0]]
    index.DimensionIndexValues = [number, order]
    segment.ReferencedSegmentNumber = number
    source = near.reference(k)
    source.PurposeOfReferenceCodeSequence = coded("121322", "Source image for image processing operation")
    source.SpatialLocationsPreserved = "YES"
    derivation.SourceImageSequence, derivation.DerivationCodeSequence = [source], coded("113076", "Segmentation")
    frame.FrameContentSequence, frame.PlanePositionSequence = [index], [place]
    frame.SegmentIdentificationSequence, frame.DerivationImageSequence = [segment], [derivation]
    return frame
