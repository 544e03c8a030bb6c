# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""DICOM series in a tree of folders, as exported from an archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from .headers import has_dicom_content, needed_pydicom

__all__ = ["files_by_series", "series_source"]


def files_by_series(folder: Path) -> dict[str, list[Path]]:
    """The DICOM files in a folder and all folders below it, by the UID of their series.

    Args:
        folder: links to folders are not followed.

    Returns:
        sorted paths; other files, and files without a series, are left out.

    Raises:
        InputError: if it is no folder, a DICOM file is broken, or pydicom is not installed.
    """
    if not folder.is_dir():
        raise InputError(f"input folder {folder}: is not a folder; name the folder that holds the DICOM files")
    pydicom = needed_pydicom(f"input folder {folder}", "series in a tree of folders are found")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not has_dicom_content(path):
            continue
        try:
            header = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True, force=True)
            uid = str(header.get("SeriesInstanceUID") or "")
        except Exception as error:  # pydicom raises various types for broken files
            raise InputError(f"{path}: is a broken DICOM file; copy or export it again") from error
        if uid:
            found.setdefault(uid, []).append(path)
    return found


def series_source(uid: str, files: Sequence[Path], scratch: Path) -> Path:
    """The path by which the files of a series are read as one image, see :func:`monai_locor.io.dicom.read_dicom`.

    Args:
        uid: series instance UID.
        files: all files of the series, at least one.
        scratch: if the files lie in several folders, links to them are made in a folder in this one.

    Returns:
        ``FOLDER/UID``.
    """
    folders = {path.parent for path in files}
    if len(folders) == 1:
        return folders.pop() / uid
    folder = scratch / f"series_{uid}"
    folder.mkdir(parents=True)
    for k, path in enumerate(files):
        (folder / f"{k:06d}.dcm").symlink_to(path.resolve())
    return folder / uid
