# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The DICOM series in a folder."""

from __future__ import annotations

import filecmp
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ...run_log import doubt
from . import tags
from .frames import Frame, frames_of
from .headers import BrokenFileError, has_dicom_content

__all__ = ["frames_of_folder", "is_series"]

logger = logging.getLogger(__name__)

UID = re.compile(r"\d+(\.\d+)+[0-9A-Za-z.]*")
MAX_LISTED_SERIES = 4  # series that a message lists


def is_series(path: Path) -> bool:
    """Whether a path can name a DICOM series: a folder, or ``FOLDER/UID`` for one of several series in a folder."""
    return path.is_dir() or (not path.exists() and path.parent.is_dir() and UID.fullmatch(path.name) is not None)


def frames_of_folder(path: Path, name: str) -> list[Frame]:
    """The frames of one series in a folder, in arbitrary order.

    Args:
        path: see :func:`is_series`; a unique prefix of the UID is enough.
        name: name of the image for messages.

    Raises:
        InputError: if there is no matching series, or several.
    """
    folder, uid = (path, "") if path.is_dir() else (path.parent, path.name)
    found = _series(folder, name)
    series = {key: frames for key, frames in found.items() if key.startswith(uid)}
    series = {uid: series[uid]} if uid in series else series
    if len(series) != 1:
        raise InputError(f"{name}: {_which(series, folder, uid)}")
    return next(iter(series.values()))


def _series(folder: Path, name: str) -> dict[str, list[Frame]]:
    """Frames by series UID, split into ``UID.grid1``, ``UID.grid2``, ... if the frames of a series differ in grid."""
    series: dict[str, list[Frame]] = {}
    instances: dict[str, list[Path]] = {}
    copies = 0
    for file in sorted(folder.iterdir()):
        frames = _frames(file, name) if file.is_file() and has_dicom_content(file) else []
        if not frames:
            continue
        same = instances.setdefault(frames[0].header.text(tags.SOP_INSTANCE_UID) or str(file), [])
        if any(filecmp.cmp(file, other, shallow=False) for other in same):
            copies += 1
            continue
        same.append(file)
        series.setdefault(frames[0].header.text(tags.SERIES_INSTANCE_UID) or "0.0", []).extend(frames)
    if copies:
        logger.warning("%s: %d files lie in the folder more than once; copies are left out", name, copies)
    out: dict[str, list[Frame]] = {}
    for uid, frames in sorted(series.items()):
        grids = _grids(frames)
        out |= {f"{uid}.grid{k}" if len(grids) > 1 else uid: grid for k, grid in enumerate(grids, 1)}
    return out


def _frames(file: Path, name: str) -> list[Frame]:
    """Frames of one file in a folder; a broken file is skipped with a warning."""
    try:
        return frames_of(file, name)
    except BrokenFileError as error:
        doubt(logger, "%s", error)
        return []


def _grids(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group frames by matrix size, pixel spacing and thickness; frames that are not parallel stay in one group."""
    out: dict[tuple[object, ...], list[Frame]] = {}
    for frame in frames:
        spacing = tuple(f"{x:.4g}" for x in frame.spacing or ())
        thickness = f"{frame.header.number(tags.SLICE_THICKNESS) or 0:.3g}"
        out.setdefault((frame.size, spacing, thickness), []).append(frame)
    directions = {tuple(frame.axes.round(2).ravel()) for frame in frames if frame.axes is not None}
    return list(out.values()) if len(directions) <= 1 else [list(frames)]


def _which(series: dict[str, list[Frame]], folder: Path, uid: str) -> str:
    """The error for a folder that does not hold exactly one series."""
    if not series and uid:
        return f"no such file, and no DICOM series whose UID begins so in {folder}; check its path"
    if not series:
        return "the folder holds 0 DICOM series; name the folder that the slices themselves lie in"
    found = []
    for key, frames in list(series.items())[:MAX_LISTED_SERIES]:
        title = frames[0].header.text(tags.SERIES_DESCRIPTION)
        what = "frames" if frames[0].header.number(tags.NUMBER_OF_FRAMES) else "slices"
        found.append(f"{key} ({title + ', ' if title else ''}{len(frames)} {what})")
    found += ["..."] * (len(series) > MAX_LISTED_SERIES)
    return f"the folder holds {len(series)} DICOM series: {', '.join(found)}; choose one as in {folder / next(iter(series))}"
