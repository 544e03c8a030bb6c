# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""DICOM series that new objects refer to, and the parts that all new objects share."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._version import __version__
from ...errors import InputError
from ..paths import atomic_path
from . import tags
from .folders import frames_of_folder, is_series
from .frames import frames_of
from .headers import has_dicom_content, is_dicom, needed_pydicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.valuerep import DSfloat

__all__ = [
    "Series",
    "coded",
    "decimal",
    "is_dicom_image",
    "new_object",
    "open_series",
    "refer_to",
    "reference",
    "references",
    "save",
    "with_remark",
]

PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight")
STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
)
SERIES = ("BodyPartExamined", "Laterality", "PatientPosition")
REQUIRED_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber", "Laterality"),
)  # of type 2 in the standard: present, possibly without a value
MAX_TEXT = 64  # characters of a DICOM long string


@dataclass(frozen=True, eq=False)
class Series:
    """An image series.

    Attributes:
        name: name of the image for messages.
        header: elements of its first file, without pixels.
        instances: SOP class and SOP instance UID of its files.
    """

    name: str
    header: Dataset
    instances: tuple[tuple[str, str], ...]

    def text(self, keyword: str) -> str:
        """Value of an element of the header as text; empty if it has none."""
        return str(self.header.get(keyword) or "")

    @property
    def title(self) -> str:
        """Its description, or its modality."""
        return self.text("SeriesDescription") or self.text("Modality") or self.name

    @property
    def frame_of_reference(self) -> str:
        """UID of its frame of reference.

        Raises:
            InputError: if it has none.
        """
        uid = self.text("FrameOfReferenceUID")
        if not uid:
            raise InputError(
                f"{self.name}: has no Frame of Reference UID, so a DICOM object cannot refer to it; "
                "write another format, or export the series again"
            )
        return uid


def is_dicom_image(source: Any) -> bool:
    """Whether an image source is a DICOM file, a folder or ``FOLDER/UID``."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = Path(source).expanduser()
    return is_dicom(path) or is_series(path)


def open_series(source: Any, name: str) -> Series:
    """Read the identifiers of a DICOM series.

    Args:
        source: a file, a folder, or ``FOLDER/UID`` for one of several series, as for :func:`~monai_locor.io.dicom.read_dicom`.
        name: name of the image for messages.

    Raises:
        InputError: if it is no DICOM series, or pydicom is not installed.
    """
    pydicom = needed_pydicom(name, "DICOM objects are written")
    if not is_dicom_image(source):
        raise InputError(f"{name}: a DICOM object refers to DICOM series, and this is not one; give its file or folder")
    path = Path(source).expanduser()
    frames = frames_of(path, name) if path.is_file() and has_dicom_content(path) else frames_of_folder(path, name)
    if not frames:
        raise InputError(f"{name}: holds no picture; name a file or folder of an image")
    heights = [0.0 if frame.position is None or frame.axes is None else frame.position @ frame.normal for frame in frames]
    frames = [frames[k] for k in np.argsort(heights, kind="stable")]
    header = pydicom.dcmread(frames[0].file, stop_before_pixels=True)
    sop_class = str(header.SOPClassUID)
    found = dict.fromkeys(frame.header.text(tags.SOP_INSTANCE_UID) for frame in frames)
    return Series(name, header, tuple((sop_class, uid) for uid in found))


def new_object(sop_class: str, fixed: Series, modality: str, description: str) -> Dataset:
    """A dataset with new identifiers in the study and the patient of a series.

    Args:
        sop_class: UID of its SOP class.
        fixed: the series whose patient, study and frame of reference it belongs to.
        modality: such as ``"REG"``.
        description: of the new series.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    made = Dataset()
    copy_elements(made, fixed.header, (*PATIENT, *STUDY, *SERIES))
    for keyword in REQUIRED_EMPTY:
        if keyword not in made:
            setattr(made, keyword, None)
    charset = fixed.header.get("SpecificCharacterSet")
    if charset:
        made.SpecificCharacterSet = charset
    now = datetime.datetime.now()
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.SeriesDate, made.SeriesTime = made.ContentDate, made.ContentTime
    made.InstanceCreationDate, made.InstanceCreationTime = made.ContentDate, made.ContentTime
    made.Modality, made.SeriesNumber, made.InstanceNumber = modality, 9001, 1
    made.SeriesDescription = description[:MAX_TEXT]
    made.SeriesInstanceUID = generate_uid(prefix=None)
    made.Manufacturer, made.ManufacturerModelName = "The monai_locor developers", "monai-locor"
    made.SoftwareVersions, made.DeviceSerialNumber = __version__, "none"
    made.PositionReferenceIndicator = fixed.header.get("PositionReferenceIndicator", None)
    made.FrameOfReferenceUID = UID(fixed.text("FrameOfReferenceUID") or generate_uid(prefix=None))
    if "StudyInstanceUID" not in made:
        made.StudyInstanceUID = generate_uid(prefix=None)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    return made


def copy_elements(target: Dataset, source: Dataset, keywords: Sequence[str]) -> None:
    """Copy the elements that there are."""
    for keyword in keywords:
        if keyword in source:
            target[keyword] = source[keyword]


def reference(sop_class: str, instance: str) -> Dataset:
    """An item that refers to an object by the UIDs of its class and instance."""
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(sop_class), UID(instance)
    return item


def references(series: Series) -> list[Dataset]:
    """One reference for each file of a series."""
    return [reference(sop_class, uid) for sop_class, uid in series.instances]


def refer_to(made: Dataset, *sources: Series) -> None:
    """Add the module with which an object names all instances that it refers to."""
    from pydicom.dataset import Dataset

    others = []
    same = []
    for series in sources:
        item = Dataset()
        item.ReferencedInstanceSequence = references(series)
        item.SeriesInstanceUID = series.text("SeriesInstanceUID")
        if series.text("StudyInstanceUID") == made.StudyInstanceUID:
            same.append(item)
        else:
            study = Dataset()
            study.ReferencedSeriesSequence, study.StudyInstanceUID = [item], series.text("StudyInstanceUID")
            others.append(study)
    if same:
        made.ReferencedSeriesSequence = same
    if others:
        made.StudiesContainingOtherReferencedInstancesSequence = others


def decimal(number: float) -> DSfloat:
    """A number as a DICOM decimal string of at most 16 characters."""
    from pydicom.valuerep import DSfloat

    return DSfloat(float(number), auto_format=True)


def coded(value: str, meaning: str) -> list[Dataset]:
    """A sequence with one code of the DICOM Controlled Terminology."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return [item]


def with_remark(title: str, remark: str) -> str:
    """A description of a series that ends in a remark in brackets, which is never cut off; without a remark, as it is.

    >>> with_remark("MR on CT", "WARN")
    'MR on CT (WARN)'
    """
    end = f" ({remark})" if remark else ""
    return title[: MAX_TEXT - len(end)] + end


def save(made: Dataset, path: Path) -> None:
    """Write a dataset as a DICOM file; it appears only when it is complete."""
    with atomic_path(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)
