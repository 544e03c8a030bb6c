# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The pairs of a cohort, and the checks of all of them before the first registration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.datalist import refuse
from ..errors import InputError
from ..io.dicom import is_dicom, is_series
from ..io.grids import read_grid

__all__ = ["FILE_KEYS", "CohortPair", "check_files", "check_pairs", "id_fault"]

MAX_ID_CHARACTERS = 100
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DEVICE_FILE_NAMES = {"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))}  # on Windows
GUIDES = ("landmarks", "driving_labels")  # files of both images that drive a registration
NO_IMAGES = ("initial", "fixed_landmarks", "moving_landmarks")
CHECKING_THREADS = 8  # reading headers waits for the disk


@dataclass(frozen=True)
class CohortPair:
    """One pair of images of a cohort.

    Attributes:
        id: unique name, also the name of the folder of its results.
        fixed, moving: image files, or folders of one DICOM series each.
        fixed_mask, moving_mask: masks of the images; None for the whole images.
        fixed_labels, moving_labels: label maps, which are transformed along; Dice is reported if both are given.
        fixed_landmarks, moving_landmarks: files of corresponding points, which drive the registration beside the images.
        initial: initial transform, a file of any format that ``register --initial`` reads.
        fixed_driving_labels, moving_driving_labels: label maps that drive the registration beside the images.
    """

    id: str
    fixed: str
    moving: str
    fixed_mask: str | None = None
    moving_mask: str | None = None
    fixed_labels: str | None = None
    moving_labels: str | None = None
    fixed_landmarks: str | None = None
    moving_landmarks: str | None = None
    initial: str | None = None
    fixed_driving_labels: str | None = None
    moving_driving_labels: str | None = None

    @classmethod
    def of(cls, values: CohortPair | Mapping[str, Any]) -> CohortPair:
        """Convert a mapping with the names of the attributes.

        Raises:
            InputError: for unknown or missing names.
        """
        if isinstance(values, CohortPair):
            return values
        known = [item.name for item in fields(cls)]
        unknown = [str(name) for name in values if name not in known]
        missing = [name for name in known[:3] if values.get(name) is None]
        if unknown or missing:
            text = f"has no {', '.join(missing)}" if missing else f"has the unknown key {', '.join(unknown)}"
            raise InputError(f"pair {values.get('id', '')!r}: {text}; give {', '.join(known[:3])}, and optionally {known[3:]}")
        return cls(**{name: str(value) for name, value in values.items() if value is not None})

    @property
    def files(self) -> dict[str, str]:
        """The given files, by the names of the attributes."""
        return {name: value for name, value in asdict(self).items() if name != "id" and value is not None}


FILE_KEYS = tuple(item.name for item in fields(CohortPair))[1:]


def id_fault(name: str) -> str:
    """The reason why an id cannot name a folder on every file system; empty if it can.

    >>> id_fault("sub-01_ses-2"), bool(id_fault("../sub-01")), bool(id_fault("nul"))
    ('', True, True)
    """
    if len(name) > MAX_ID_CHARACTERS:
        return f"id {name[:20]}... has {len(name)} characters; use at most {MAX_ID_CHARACTERS}"
    if not SAFE_ID.fullmatch(name) or name.endswith("."):
        return f"id {name!r} is not a safe file name; use letters, digits, '.', '_' and '-', and start with a letter or digit"
    if name.split(".", maxsplit=1)[0].casefold() in DEVICE_FILE_NAMES:
        return f"id {name!r} is a device name on Windows; use another"
    return ""


def check_pairs(pairs: Sequence[CohortPair], source: str = "", progress: bool = False) -> None:
    """Check ids and files of all pairs; only the headers of the images are read.

    Args:
        pairs: at least one.
        source: name of the list for messages.
        progress: show a progress bar.

    Raises:
        InputError: for unsafe or repeated ids, and files that are missing or no images. One message names the first faults.
    """
    if not pairs:
        raise InputError(f"{source or 'pairs'}: has no pair; give at least one")
    refuse(list(_id_faults(pairs)), source, "change the ids")
    refuse([fault for pair in pairs for fault in _lone_guides(pair)], source, "name both or none")
    first: dict[str, tuple[str, bool]] = {}  # each file once
    for pair in pairs:
        for key, path in pair.files.items():
            first.setdefault(path, (f"pair {pair.id}: {_role(key)}", key not in NO_IMAGES))
    check_files(first, source, progress)


def check_files(files: Mapping[str, tuple[str, bool]], source: str = "", progress: bool = False) -> None:
    """Check that files exist and that images have a valid header.

    Args:
        files: for each path its name for messages, and whether it is an image.
        source: name of the list for messages.
        progress: show a progress bar.

    Raises:
        InputError: for files that are missing or no images. One message names the first faults.
    """
    with ThreadPoolExecutor(CHECKING_THREADS) as executor:
        found = executor.map(lambda item: _file_fault(item[0], *item[1]), files.items())
        faults = [fault for fault in tqdm(found, "checking files", len(files), disable=not progress) if fault]
    refuse(faults, source)


def _lone_guides(pair: CohortPair) -> Iterable[str]:
    for name in GUIDES:
        if (f"fixed_{name}" in pair.files) != (f"moving_{name}" in pair.files):
            yield f"pair {pair.id}: has {name.replace('_', ' ')} of one image only"


def _role(key: str) -> str:
    """The name of an attribute of a pair for messages."""
    return "initial transform" if key == "initial" else key.replace("_", " ") if "_" in key else f"{key} image"


def _id_faults(pairs: Iterable[CohortPair]) -> Iterable[str]:
    seen: dict[str, str] = {}
    for pair in pairs:
        if fault := id_fault(pair.id):
            yield fault
        key = pair.id.casefold()
        if key in seen:
            other = "" if seen[key] == pair.id else f" as {seen[key]!r}, which differs in upper case only"
            yield f"id {pair.id!r} occurs twice{other}"
        seen.setdefault(key, pair.id)


def _file_fault(path: str, name: str, is_image: bool) -> str:
    """The reason why a file cannot be used; empty if it can."""
    place = Path(path)
    try:
        series = is_series(place)
        if not series and not (place.is_file() or place.is_dir()):  # a pipe would make the check wait
            return f"{name} {path}: {'not a file or folder' if place.exists() else 'no such file'}"
        if is_image and not (
            series or is_dicom(place)
        ):  # ITK, which reads their headers without pydicom, takes seconds to import
            read_grid(place, name)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{name} {path}: cannot be read ({error.strerror})"
    return ""
