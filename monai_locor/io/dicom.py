# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""Folders of DICOM slices: which series they hold, and one of them as a volume."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .itk_library import load_itk

__all__ = ["is_series", "read_series"]

logger = logging.getLogger(__name__)

UID = re.compile(r"\d+(\.\d+)+[0-9A-Za-z.]*")
UNEVEN, BROKEN = 0.01, 0.5  # deviation of the distance of slices, in slices: worth a warning, not the same volume any more
DESCRIPTION, DATE = "0008|103e", "0008|0021"
SHOWN = 4  # series that a message lists


def is_series(path: Path) -> bool:
    """Whether a path can name a DICOM series: a folder, or ``FOLDER/UID`` for one of several series in a folder."""
    return path.is_dir() or (not path.exists() and path.parent.is_dir() and UID.fullmatch(path.name) is not None)


def read_series(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The volume of one DICOM series.

    The slope and intercept of every slice are applied (they differ in PET), and a tilted gantry is kept as a shear of the
    affine, which ITK's readers silently drop.

    Args:
        path: see :func:`is_series`; of the UID, as much as makes it unique is enough.
        name: for messages.

    Returns:
        ``(X, Y, Z)`` float32, or ``(X, Y, Z, 3)`` uint8 of colour slices; affine ``(4, 4)``, RAS mm.

    Raises:
        InputError: when there is no such series, there are several, or slices are missing or unevenly spaced.
    """
    itk = load_itk(name)
    folder, uid = (path, "") if path.is_dir() else (path.parent, path.name)
    series = {key: files for key, files in _series(folder, itk).items() if key.startswith(uid)}
    if len(series) != 1:
        raise InputError(f"{name}: {_which(series, folder, uid, itk)}")
    files = next(iter(series.values()))
    components = _information(files[0], itk).GetNumberOfComponents()
    kind = itk.Image[itk.F if components == 1 else itk.RGBPixel[itk.UC], 3]
    reader = itk.ImageSeriesReader[kind].New(FileNames=files, ForceOrthogonalDirection=False)
    reader.SetImageIO(itk.GDCMImageIO.New())
    with _silent(reader):
        reader.Update()
    image = reader.GetOutput()
    _check_spacing(image, name)
    array = np.array(itk.array_view_from_image(image))
    spatial = np.transpose(array, (2, 1, 0) if components == 1 else (2, 1, 0, 3))
    return spatial, _affine(image, itk)


def _series(folder: Path, itk: Any) -> dict[str, list[str]]:
    """Files of each series, in the order of their slices; a key is the series' UID and what else tells series apart."""
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction(DATE)
    with _silent(names):
        names.SetDirectory(str(folder))
        keys = list(names.GetSeriesUIDs())
    return {key: list(names.GetFileNames(key)) for key in keys}


def _which(series: dict[str, list[str]], folder: Path, uid: str, itk: Any) -> str:
    """What to say when it is not one series."""
    if not series and uid:
        return f"no such file, and no DICOM series whose UID begins so in {folder}; check its path"
    if not series:
        return "the folder holds 0 DICOM series; name the folder that the slices themselves lie in"
    found = []
    for key, files in list(series.items())[:SHOWN]:
        header = _information(files[0], itk)  # it owns its dictionary: dropping it here would crash
        tags = header.GetMetaDataDictionary()
        title = str(tags[DESCRIPTION]).strip() if tags.HasKey(DESCRIPTION) else ""
        found.append(f"{key} ({title + ', ' if title else ''}{len(files)} slices)")
    found += ["..."] * (len(series) > SHOWN)
    first = next(iter(series))
    return f"the folder holds {len(series)} DICOM series: {', '.join(found)}; choose one as in {folder / first}"


def _information(file: str, itk: Any) -> Any:
    header = itk.GDCMImageIO.New()
    header.SetFileName(file)
    header.ReadImageInformation()
    return header


@contextmanager
def _silent(process: Any) -> Iterator[None]:
    """Without ITK's own warnings, several lines each; what matters of them is said in ours."""
    shown = process.GetGlobalWarningDisplay()
    process.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        process.SetGlobalWarningDisplay(shown)


def _check_spacing(image: Any, name: str) -> None:
    tags, key = image.GetMetaDataDictionary(), "ITK_non_uniform_sampling_deviation"
    deviation = float(tags[key]) if tags.HasKey(key) else 0.0
    spacing = float(image.GetSpacing()[2])
    if deviation > BROKEN * spacing:
        raise InputError(
            f"{name}: slices are missing or unevenly spaced, by up to {deviation:.3g} mm where they should be {spacing:.3g} mm "
            "apart; complete the series, or resample it with a converter such as dcm2niix"
        )
    if deviation > UNEVEN * spacing:
        logger.warning(
            "%s: the distance of slices varies by up to %.3g mm and is taken to be %.3g mm", name, deviation, spacing
        )


def _affine(image: Any, itk: Any) -> np.ndarray:
    """RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.asarray(image.GetSpacing())
    affine[:3, 3] = np.asarray(image.GetOrigin())
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
