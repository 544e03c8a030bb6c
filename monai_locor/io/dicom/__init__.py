# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading of DICOM files and folders; frames are placed by their positions, not by file order. Does not import torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..stored_image import StoredImage, TimeAxis
from . import tags
from .folders import frames_of_folder, is_series
from .frames import Frame, frames_of
from .headers import has_dicom_content, is_dicom
from .mosaic import is_mosaic, tiles
from .pixels import load_voxels
from .volumes import Volumes, arranged

__all__ = ["dicom_geometry", "dicom_volumes", "is_dicom", "is_series", "read_dicom"]

COLORS = ("red", "green", "blue")


def read_dicom(path: Path, name: str) -> StoredImage:
    """Read the image of a DICOM file, or of one DICOM series in a folder.

    Frames are sorted by position, and the slice spacing is computed from the positions. Volumes at the same positions
    (echoes, times, magnitude and phase, segments) become channels. A tilted gantry becomes a shear of the affine. Mosaics
    are split into slices. Each frame's slope and intercept are applied.

    Args:
        path: a file (:func:`is_dicom`), a folder, or ``FOLDER/UID`` (:func:`is_series`).
        name: name of the image for messages.

    Returns:
        voxels ``(X, Y, Z, C)``; X runs along columns, Y along rows, Z along the slice normal.

    Raises:
        InputError: if there is not exactly one series, or frames have no position, are not parallel or do not form a regular
            grid.
    """
    with _without_pydicoms_warnings():
        volumes = _arranged(path, name)
        voxels = load_voxels(volumes.frames, name)
    names = _channels(voxels.shape[-1], volumes.names)
    return StoredImage(voxels, volumes.affine, names, dtype=volumes.first.stored, time=_time(volumes))


def dicom_geometry(path: Path, name: str) -> tuple[tuple[int, int, int], np.ndarray]:
    """Number of voxels along X, Y and Z and the affine, from headers only; arguments and errors as for :func:`read_dicom`."""
    volumes = dicom_volumes(path, name)
    rows, columns = volumes.first.size
    return (columns, rows, len(volumes.frames[0])), volumes.affine


def dicom_volumes(path: Path, name: str) -> Volumes:
    """The frames of an image, arranged into volumes, without pixels; arguments and errors as for :func:`read_dicom`."""
    with _without_pydicoms_warnings():
        return _arranged(path, name)


def _arranged(path: Path, name: str) -> Volumes:
    frames = _frames_of_file(path, name) if path.is_file() else frames_of_folder(path, name)
    slices = [part for frame in frames for part in (tiles(frame, name) if is_mosaic(frame) else [frame])]
    return arranged(slices, name)


@contextmanager
def _without_pydicoms_warnings() -> Iterator[None]:
    """Silence pydicom's warnings about header values that are not used here."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _frames_of_file(path: Path, name: str) -> list[Frame]:
    if not has_dicom_content(path):
        raise InputError(f"{name}: is not DICOM, in spite of its suffix; copy or export it again")
    frames = frames_of(path, name)
    if not frames:
        raise InputError(
            f"{name}: holds no picture, it is a report, an index of files or incomplete; name a file with one, or copy it again"
        )
    return frames


def _time(volumes: Volumes) -> TimeAxis | None:
    """Time axis of a mosaic series, whose repetition time is that of whole volumes; None for others."""
    repetition = volumes.first.header.number(tags.REPETITION_TIME)
    series = bool(volumes.names) and all(name.startswith("time ") for name in volumes.names)
    return TimeAxis(repetition / 1000, "sec") if series and repetition and is_mosaic(volumes.first) else None


def _channels(count: int, names: tuple[str, ...]) -> tuple[str, ...]:
    """Channel names; color images have three channels for each volume."""
    if count == 3 * max(len(names), 1):
        return tuple(f"{title} {color}".strip() for title in names or ("",) for color in COLORS)
    return names
