# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The result of a registration of two DICOM series, as DICOM objects."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ..errors import InputError
from ..io.dicom.images import write_series
from ..io.dicom.registration import write_registration
from ..io.paths import check_output_dir
from .result import RegistrationResult

__all__ = ["REGISTRATION_FILE", "SERIES_FOLDER", "check_dicom_folder", "write_dicom"]

REGISTRATION_FILE, SERIES_FOLDER = "registration.dcm", "warped"


def check_dicom_folder(folder: str | PathLike[str]) -> None:
    """Check that :func:`write_dicom` can write into a folder.

    Raises:
        InputError: if the folder cannot be written to, or holds objects already.
    """
    root = check_output_dir(folder)
    if (root / REGISTRATION_FILE).exists() or any((root / SERIES_FOLDER).glob("*.dcm")):
        raise InputError(f"output folder {root}: holds DICOM objects of another registration; name another")


def write_dicom(
    result: RegistrationResult, folder: str | PathLike[str], fixed: str | PathLike[str], moving: str | PathLike[str]
) -> list[Path]:
    """Write the warped moving image as a derived series, and the transform as a registration object.

    The descriptions of both end in the status of the verdict, such as ``MR on CT (WARN)``. The status is not looked at
    otherwise: decide before whether to write.

    Args:
        result: with the warped moving image.
        folder: made if missing: ``registration.dcm``, a Deformable Spatial Registration object, or a Spatial Registration
            object without a deformation, and the series in ``warped/``.
        fixed, moving: DICOM file, folder, or ``FOLDER/UID`` of each image; see :func:`monai_locor.io.dicom.read_dicom`.

    Returns:
        the files written, the registration object first.

    Raises:
        InputError: if an image is no DICOM series with a frame of reference, the result does not hold the warped image, or the
            folder cannot be written to or holds such objects already.
    """
    check_dicom_folder(folder)
    root = Path(folder).expanduser()
    remark = "" if result.verdict is None else result.verdict.status
    warped = result.held("warped_moving").numpy()
    series = write_series(root / SERIES_FOLDER, warped, result.fixed_grid, fixed, moving, remark)
    target = root / REGISTRATION_FILE
    return [*write_registration(target, f"output file {target}", result.transform, fixed, moving, remark), *series]
