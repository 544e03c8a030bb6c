# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Series of DICOM slices, written by ITK."""

from __future__ import annotations

import locale
from pathlib import Path

import itk
import numpy as np


def write_slices(
    folder: Path, series: str, volume: np.ndarray, tilt: float = 0.0, skip: tuple[int, ...] = (), **more: str
) -> None:
    """Slices of an int16 volume ``(Z, Y, X)``, 2 x 3 x 4 mm; every slice ``tilt`` mm farther along y than the last."""
    folder.mkdir(exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)
    try:
        _write(folder, series, volume, tilt, skip, more)
    finally:
        locale.setlocale(locale.LC_ALL, before)  # ITK leaves "C" behind, with which Python opens files as ASCII


def _write(folder: Path, series: str, volume: np.ndarray, tilt: float, skip: tuple[int, ...], more: dict[str, str]) -> None:
    for k in set(range(len(volume))) - set(skip):
        image = itk.image_from_array(volume[k : k + 1])
        image.SetSpacing([2, 3, 4])
        tags = {"0008|0060": "MR", "0008|0021": "20200101", "0020|000d": "1.2.3", "0020|000e": series}
        tags |= {"0020|0013": str(k + 1), "0020|0032": f"1\\{2 + tilt * k}\\{4 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", **more}
        for tag, value in tags.items():
            image.GetMetaDataDictionary()[tag] = value
        writer = itk.ImageFileWriter[itk.Image[itk.SS, 3]].New(Input=image, FileName=str(folder / f"{series}_{k}.dcm"))
        gdcm = itk.GDCMImageIO.New()
        gdcm.KeepOriginalUIDOn()
        writer.SetImageIO(gdcm)
        writer.Update()
