# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The contours of an RTSTRUCT object on another image (PS3.3 A.19)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...geometry import Grid, SpatialTransform, apply_affine
from ..lps import lps_signs
from .contours import keyholes, outlines
from .image_slices import ImageSlices, open_slices, refusing_broken, warn_of_patients
from .propagation import regions_on_slices
from .series import MAX_TEXT, copy_elements, new_object, reference, references, save
from .structures import Structure, read_structures, region_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["carry_structures"]

logger = logging.getLogger(__name__)

STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"  # retired; the SOP class by which RTSTRUCT objects refer to a study
ROI_ELEMENTS = ("ROINumber", "ROIName", "ROIDescription", "ROIGenerationAlgorithm")
OBSERVATION_ELEMENTS = (
    *("ObservationNumber", "ReferencedROINumber", "ROIObservationLabel", "ROIObservationDescription"),
    *("RTROIIdentificationCodeSequence", "TherapeuticRoleCategoryCodeSequence", "TherapeuticRoleTypeCodeSequence"),
    *("RTROIInterpretedType", "ROIInterpreter", "MaterialID", "ROIPhysicalPropertiesSequence"),
)
MAX_LABEL = 16  # characters of a DICOM short string
DECIMALS = 4  # of coordinates, mm

#: contours of one region: slice or None, type, and points ``(N, 3)``, LPS mm
Contours = list[tuple[int | None, str, np.ndarray]]


def carry_structures(path: Path, target: Path, transform: SpatialTransform, fixed: Any, moving: Any) -> dict[str, int]:
    """Write the contours of an RTSTRUCT object of the moving image as a new RTSTRUCT object of the fixed image.

    Closed contours are converted to the covered fraction of the voxels of the moving image, which is resampled with linear
    interpolation. The new contours lie in the slices of the fixed image, where the fraction is 0.5. A pixel is inside if an odd
    number of contours of its region encloses it. Holes are joined to the contour around them by a channel of zero width, as the
    standard recommends for CLOSED_PLANAR; in regions of type CLOSEDPLANAR_XOR they stay contours. Points are mapped.

    Args:
        path: RTSTRUCT object.
        target: file to write.
        transform: from points of the fixed to points of the moving image.
        fixed: DICOM file or folder of the fixed image.
        moving: DICOM file or folder of the image that the contours were drawn on.

    Returns:
        the number of contours and points by ROI number and name.

    Raises:
        InputError: see :func:`monai_locor.io.dicom.structures.read_structures`; and if no region lies in the fixed image.
    """
    name = f"RTSTRUCT {path}"
    near, far = open_slices(fixed, "reference image"), open_slices(moving, "image of --drawn-on")
    if transform.dims != 3:
        raise InputError(f"{name}: is 3-D, the transform {transform.dims}-D; give those of one pair")
    content, structures = read_structures(path, name, far.series.frame_of_reference)
    with refusing_broken(name):
        warn_of_patients(near.series, content, name)
    contours = _closed(structures, transform, near, far.grid, name)
    for number, found in _points(structures, transform, near.grid, far.grid).items():
        contours[number] += found
    if not any(contours.values()):
        raise InputError(f"{name}: none of its regions lies in the reference image; check the transform and the images")
    with refusing_broken(name):
        save(_made(content, structures, contours, near), target)
    return {f"{structure.number} {structure.name}": len(contours[structure.number]) for structure in structures}


def _closed(
    structures: Sequence[Structure], transform: SpatialTransform, near: ImageSlices, moving: Grid, name: str
) -> defaultdict[int, Contours]:
    """The contours of each region by its number, in the slices of the fixed image."""
    found = [(structure, region_of(structure, moving, name)) for structure in structures]
    shown = [(structure, region) for structure, region in found if region is not None]
    out: defaultdict[int, Contours] = defaultdict(list)
    cut = set()
    for part in regions_on_slices([region for _, region in shown], transform, moving, near.grid):
        structure = shown[part.region][0]
        found_outlines = outlines(part.values)
        for outline in keyholes(found_outlines) if structure.closed_type == "CLOSED_PLANAR" else found_outlines:
            out[structure.number].append((part.k, structure.closed_type, near.points(part.k, outline + part.corner)))
        if part.at_edge:
            cut.add(structure.name)
    lost = [structure.name for structure, _ in shown if not out[structure.number]]
    if lost:
        logger.warning(
            "%s: outside of the reference image or smaller than a voxel, without contours: %s", name, ", ".join(lost)
        )
    if cut:
        logger.warning("%s: reach the edge of the reference image and may be cut off: %s", name, ", ".join(sorted(cut)))
    return out


def _points(structures: Sequence[Structure], transform: SpatialTransform, fixed: Grid, moving: Grid) -> dict[int, Contours]:
    """The points of each region that has some, by its number."""
    some = [structure for structure in structures if len(structure.points)]
    if not some:
        return {}
    back = transform.inverse(moving)
    out = {}
    for structure in some:
        moved = back.points(structure.points * lps_signs(3))
        k = np.rint(apply_affine(np.linalg.inv(fixed.affine), moved)[:, 2]).astype(int).tolist()
        slices = [number if 0 <= number < fixed.shape[2] else None for number in k]
        out[structure.number] = [(k, "POINT", place[None] * lps_signs(3)) for k, place in zip(slices, moved)]
    return out


def _made(content: Dataset, structures: Sequence[Structure], contours: Mapping[int, Contours], near: ImageSlices) -> Dataset:
    from pydicom.uid import ImplicitVRLittleEndian

    label = str(content.get("StructureSetLabel") or "contours")
    made = new_object(STRUCTURES, near.series, "RTSTRUCT", f"{label} on {near.series.title}")
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # the others limit contour data to 64 kB
    made.SpecificCharacterSet = "ISO_IR 192"  # of names from two objects
    made.StructureSetLabel = label[:MAX_LABEL]
    made.StructureSetDescription = "Carried over by image registration"
    made.StructureSetDate, made.StructureSetTime = made.ContentDate, made.ContentTime
    made.ApprovalStatus, made.OperatorsName = "UNAPPROVED", None
    made.PredecessorStructureSetSequence = [reference(content.SOPClassUID, content.SOPInstanceUID)]
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(near)]
    made.StructureSetROISequence = [_roi(structure.item, near) for structure in structures]
    made.ROIContourSequence = [_contour_item(structure, contours[structure.number], near) for structure in structures]
    made.RTROIObservationsSequence = _observations(content, structures)
    for keyword in ("ContentDate", "ContentTime", "Laterality"):  # not of this kind of object
        delattr(made, keyword)
    return made


def _frame_of_reference(near: ImageSlices) -> Dataset:
    from pydicom.dataset import Dataset

    item, series = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = near.series.text("SeriesInstanceUID"), references(near.series)
    study = reference(STUDY_COMPONENT, near.series.text("StudyInstanceUID"))
    study.RTReferencedSeriesSequence = [series]
    item.FrameOfReferenceUID, item.RTReferencedStudySequence = near.series.frame_of_reference, [study]
    return item


def _roi(given: Dataset, near: ImageSlices) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    copy_elements(item, given, ROI_ELEMENTS)
    for keyword in ("ROIName", "ROIGenerationAlgorithm"):
        if keyword not in item:
            setattr(item, keyword, None)
    item.ReferencedFrameOfReferenceUID = near.series.frame_of_reference
    earlier = str(given.get("ROIGenerationDescription") or "")
    item.ROIGenerationDescription = f"Carried over by image registration; {earlier}".rstrip("; ")[:MAX_TEXT]
    return item


def _contour_item(structure: Structure, contours: Contours, near: ImageSlices) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedROINumber = structure.number
    if structure.contour_item is not None:
        copy_elements(item, structure.contour_item, ("ROIDisplayColor",))
    parts = []
    for number, (k, kind, points) in enumerate(contours, 1):
        part = Dataset()
        part.ContourNumber, part.ContourGeometricType, part.NumberOfContourPoints = number, kind, len(points)
        if k is not None:
            part.ContourImageSequence = [near.reference(k)]
        _set_coordinates(part, points)
        parts.append(part)
    if parts:
        item.ContourSequence = parts
    return item


def _set_coordinates(part: Dataset, points: np.ndarray) -> None:
    """Set the contour data as encoded text; pydicom would check the text of each number, which takes seconds."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    text = "\\".join(f"{x:.{DECIMALS}f}" for x in points.ravel().tolist()).encode()
    text += b" " * (len(text) % 2)
    tag = Tag("ContourData")
    part[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)


def _observations(content: Dataset, structures: Sequence[Structure]) -> list[Dataset]:
    """The observations of the object, and an empty one for each region that has none, which the standard requires."""
    from pydicom.dataset import Dataset

    out = []
    for given in content.get("RTROIObservationsSequence") or ():
        item = Dataset()
        copy_elements(item, given, OBSERVATION_ELEMENTS)
        out.append(item)
    known = {int(item.ReferencedROINumber) for item in out}
    highest = max((int(item.ObservationNumber) for item in out), default=0)
    for number in (structure.number for structure in structures if structure.number not in known):
        item, highest = Dataset(), highest + 1
        item.ObservationNumber, item.ReferencedROINumber = highest, number
        out.append(item)
    for item in out:
        for keyword in ("RTROIInterpretedType", "ROIInterpreter"):
            if keyword not in item:
                setattr(item, keyword, None)
    return out
