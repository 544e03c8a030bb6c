# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Axial DICOM series of given volumes, and a pair of them whose moving image is shifted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import CTImageStorage, MRImageStorage

from .dicom_files import AXIAL, dataset, save
from .dicom_regions import PATIENT, STUDY

SHIFT = np.array([4.0, -2.0, 0.0])  # of the moving blob, RAS mm
CENTER = np.array([-22.0, -24.0, 20.0])  # of the blob in the fixed image, RAS mm
CT = {"FrameOfReferenceUID": "1.2.7", "SeriesInstanceUID": "1.2.3.1", "SeriesDescription": "CT head", "Modality": "CT"}
MR = {"FrameOfReferenceUID": "1.2.9", "SeriesInstanceUID": "1.2.3.2", "SeriesDescription": "MR head", "Modality": "MR"}


def write_volume(
    folder: Path, values: np.ndarray, spacing: float = 2.0, origin: Any = (0.0, 0.0, 0.0), **elements: Any
) -> Path:
    """One file for each slice of ``(X, Y, Z)`` values, X along columns, from an origin in LPS mm."""
    kind = CTImageStorage if elements.get("Modality") == "CT" else MRImageStorage
    uid = elements["SeriesInstanceUID"]
    for k in range(values.shape[2]):
        place = [float(x) for x in (0, 0, k * spacing)]
        placed = {"ImagePositionPatient": place, "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [spacing] * 2}
        more = {"SliceThickness": spacing, "InstanceNumber": k + 1, "SOPInstanceUID": f"{uid}.{k + 1}"}
        pixels = np.ascontiguousarray(values[:, :, k].T.round(), dtype=np.int16)
        data = dataset(pixels, kind, **PATIENT, **STUDY, **placed, **more, **elements)
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        save(folder / f"{k:03d}.dcm", data)
    return folder


def blob(center: np.ndarray) -> np.ndarray:
    """An image of 24 x 24 x 24 voxels of 2 mm with an asymmetric blob around a point in RAS mm."""
    axes = np.stack(np.meshgrid(*[2.0 * np.arange(24)] * 3, indexing="ij"), -1) * (-1, -1, 1)
    away = (axes - center) / [6, 8, 10]
    values = np.exp(-0.5 * (away**2).sum(-1)) + 0.3 * np.exp(-2 * ((away - [1, 0.5, 0.5]) ** 2).sum(-1))
    return 1000 * values


def write_pair(folder: Path, **moving: Any) -> tuple[Path, Path]:
    """A CT series in ``ct/`` and an MR series in ``mr/``, whose blob is shifted by SHIFT, of one patient and study."""
    fixed = write_volume(folder / "ct", blob(CENTER), **CT)
    return fixed, write_volume(folder / "mr", blob(CENTER + SHIFT), **{**MR, **moving})
