# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A resampled image as a derived DICOM series."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...geometry import Grid
from ..lps import geometry_for_itk
from ..paths import check_output_dir
from .series import (
    MAX_TEXT,
    Series,
    coded,
    copy_elements,
    decimal,
    new_object,
    open_series,
    refer_to,
    references,
    with_remark,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["check_series_folder", "write_series"]

logger = logging.getLogger(__name__)

CT, MR, PET = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture
CLASSIC = {
    **{CT: CT, MR: MR, PET: PET},
    "1.2.840.10008.5.1.4.1.1.2.1": CT,  # enhanced
    "1.2.840.10008.5.1.4.1.1.4.1": MR,
    "1.2.840.10008.5.1.4.1.1.130": PET,
}
ACQUISITION = (
    *("ProtocolName", "ContrastBolusAgent", "ScanningSequence", "SequenceVariant", "ScanOptions"),
    *("MRAcquisitionType", "SequenceName", "RepetitionTime", "EchoTime", "EchoTrainLength", "InversionTime", "FlipAngle"),
    *("MagneticFieldStrength", "KVP", "XRayTubeCurrent", "ConvolutionKernel", "Units", "CountsSource", "SeriesType"),
    *("CorrectedImage", "DecayCorrection", "Radiopharmaceutical", "RadiopharmaceuticalInformationSequence", "RescaleType"),
    *("WindowCenter", "WindowWidth", "AcquisitionDate", "AcquisitionTime"),
)  # of the moving image, which hold for its values on any grid
REQUIRED_EMPTY = {
    CT: ("KVP", "AcquisitionNumber", "PatientPosition"),
    MR: ("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength", "PatientPosition"),
    PET: ("CorrectedImage", "PatientPosition"),
    SECONDARY: (),
}
REQUIRED_KINDS = {CT: ["AXIAL"], MR: ["OTHER"]}  # third value of the image type
LOWEST, HIGHEST = -32768, 32767  # of stored values
MIN_WHOLE_RANGE = 255  # of intensities that may be rounded to whole numbers


def write_series(folder: Path, values: np.ndarray, grid: Grid, fixed: Any, moving: Any, remark: str = "") -> list[Path]:
    """Write an image as a new DICOM series, one file for each slice.

    The series belongs to the patient, the study and the frame of reference of the fixed image. Modality, acquisition and
    display window are those of the moving image. Values are stored in 16 bits: rounded to whole numbers if they are in that
    range and cover at least 256 of them, otherwise (and always for PET) with a slope and an intercept.

    Args:
        folder: folder for the files ``0001.dcm``, ...; made if missing, and without DICOM files before.
        values: intensities, ``(X, Y, Z)`` or ``(1, X, Y, Z)``.
        grid: grid of the values, three-dimensional.
        fixed: DICOM file or folder of the fixed image.
        moving: DICOM file or folder of the moving image, whose values these are.
        remark: for the description of the series, such as a verdict.

    Returns:
        the files written.

    Raises:
        InputError: if the image is not three-dimensional or has several channels, an image is not DICOM, or the folder cannot
            be written or holds DICOM files.
    """
    voxels = np.asarray(values)
    if voxels.shape in ((1, *grid.shape), grid.shape) and grid.dims == 3:
        voxels = voxels.reshape(grid.shape)
    else:
        raise InputError(
            f"output folder {folder}: a DICOM series holds one volume, got the shape {voxels.shape}; write .nii.gz"
        )
    series = open_series(fixed, "fixed image"), open_series(moving, "moving image")
    folder = check_series_folder(folder)
    shared = _shared(grid, *series)
    shared.SeriesDescription = with_remark(shared.SeriesDescription, remark)
    stored, slope, intercept = _stored(voxels, shared.SOPClassUID != PET)
    if shared.SOPClassUID != MR or (slope, intercept) != (1, 0):  # not among the standard's attributes of MR
        shared.RescaleSlope, shared.RescaleIntercept = (decimal(number) for number in (slope, intercept))
    return _write_slices(folder, shared, stored, grid)


def check_series_folder(folder: Path) -> Path:
    """Check that a series can be written into a folder; make the folder and return it.

    Raises:
        InputError: if it cannot be written to, or holds DICOM files.
    """
    found = check_output_dir(folder)
    if any(found.glob("*.dcm")):
        raise InputError(f"output folder {folder}: holds DICOM files, which would mix with the new series; name another")
    return found


def _stored(voxels: np.ndarray, may_round: bool) -> tuple[np.ndarray, float, float]:
    """Values as int16, ``(Z, Y, X)``, with their slope and intercept."""
    low, high = float(voxels.min()), float(voxels.max())
    whole = may_round and low >= LOWEST and high <= HIGHEST and high - low >= MIN_WHOLE_RANGE
    # the slope and intercept that a reader gets, of decimal text
    slope, intercept = (float(decimal(number)) for number in ((1, 0) if whole else _scale(low, high)))
    scaled = np.rint((voxels.astype(np.float64) - intercept) / slope).clip(LOWEST, HIGHEST)
    return np.ascontiguousarray(scaled.transpose(2, 1, 0), dtype="<i2"), slope, intercept


def _scale(low: float, high: float) -> tuple[float, float]:
    slope = (high - low) / (HIGHEST - LOWEST) or 1.0
    return slope, low - LOWEST * slope


def _shared(grid: Grid, fixed: Series, moving: Series) -> Dataset:
    """The elements that all slices share."""
    sop_class = CLASSIC.get(moving.instances[0][0], SECONDARY)
    if fixed.text("PatientID") != moving.text("PatientID"):
        logger.warning("the images have different patient IDs; the resampled series gets that of the fixed image")
    title = f"{moving.title} on {fixed.title}"
    made = new_object(sop_class, fixed, moving.text("Modality") or "OT", title)
    copy_elements(made, moving.header, ACQUISITION)
    for keyword in REQUIRED_EMPTY[sop_class]:
        if keyword not in made:
            setattr(made, keyword, None)
    kinds = list(moving.header.get("ImageType") or ())[2:]
    made.ImageType = ["DERIVED", "SECONDARY", *(kinds or REQUIRED_KINDS.get(sop_class, []))]
    if sop_class == SECONDARY:
        made.ConversionType = "WSD"
    made.DerivationDescription = f"Resampled to the grid of the series {fixed.title} by image registration"
    made.DerivationCodeSequence = coded("113085", "Spatial resampling")
    made.SeriesNumber = int(moving.header.get("SeriesNumber") or 0) + 9000
    made.SeriesDescription = title[:MAX_TEXT]
    made.SourceImageSequence = references(moving)
    refer_to(made, moving)
    _describe_pixels(made, grid)
    return made


def _describe_pixels(made: Dataset, grid: Grid) -> None:
    direction, spacing, _ = geometry_for_itk(grid)
    made.Columns, made.Rows = grid.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.PixelSpacing = [decimal(spacing[1]), decimal(spacing[0])]
    made.SliceThickness = decimal(spacing[2])
    made.ImageOrientationPatient = [decimal(value) for value in direction[:, :2].T.ravel()]


def _write_slices(folder: Path, shared: Dataset, stored: np.ndarray, grid: Grid) -> list[Path]:
    """Write all files into a folder beside the target first, so that no series is incomplete."""
    from pydicom.uid import generate_uid

    direction, spacing, origin = geometry_for_itk(grid)
    normal = np.cross(direction[:, 0], direction[:, 1])
    step = direction[:, 2] * spacing[2]
    digits = max(4, len(str(len(stored))))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        names = []
        for k, pixels in enumerate(stored):
            position = np.asarray(origin) + k * step
            shared.ImagePositionPatient = [decimal(value) for value in position]
            shared.SliceLocation, shared.InstanceNumber = decimal(float(position @ normal)), k + 1
            shared.SOPInstanceUID = shared.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
            shared.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
            names.append(f"{k + 1:0{digits}d}.dcm")
            shared.save_as(Path(temporary, names[-1]), enforce_file_format=True)
        return [Path(temporary, name).replace(folder / name) for name in names]
