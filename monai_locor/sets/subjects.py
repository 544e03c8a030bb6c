# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The images of a set, and lists of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

from ..cohort.lists import csv_rows, first_given
from ..cohort.pairs import id_fault
from ..data.datalist import checked_path, load_datalist, refuse, section_of, stem
from ..errors import InputError

__all__ = ["Subject", "checked_subjects", "distinct_names", "named_visits", "read_subjects", "reference_contrast"]


@dataclass(frozen=True)
class Subject:
    """One image of a set.

    Attributes:
        id: unique name, also the name of the folder of its results.
        image: image file, or folder of one DICOM series.
        contrast: name of its contrast, such as ``"T1"``; empty if all images have the same.
        mask: mask of the image; None for the whole image.
        labels: label map, which is transformed to the template.
    """

    id: str
    image: str
    contrast: str = ""
    mask: str | None = None
    labels: str | None = None

    @classmethod
    def of(cls, values: Subject | Mapping[str, Any]) -> Subject:
        """Convert a mapping with the names of the attributes.

        Raises:
            InputError: for unknown or missing names.
        """
        if isinstance(values, Subject):
            return values
        unknown = [str(name) for name in values if name not in NAMES]
        missing = [name for name in NAMES[:2] if first_given(values.get(name)) is None]
        if unknown or missing:
            text = f"has no {', '.join(missing)}" if missing else f"has the unknown key {', '.join(unknown)}"
            raise InputError(f"subject {values.get('id', '')!r}: {text}; give id, image, and optionally {', '.join(NAMES[2:])}")
        return cls(**{name: str(value) for name, value in values.items() if first_given(value) is not None})


NAMES = tuple(item.name for item in fields(Subject))
FILES = ("image", "mask", "labels")


def read_subjects(source: str | PathLike[str], section: str | None = None) -> list[Subject]:
    """Read the images of a set from a list.

    - A CSV file (comma, semicolon or tab) with a header line. The column ``image`` is required; ``id``, ``contrast``,
      ``mask`` and ``labels`` are optional, other columns are ignored.
    - A JSON file: a datalist of MONAI with the same names.

    Relative paths are relative to the folder of the file. Without ids, the images are named by their files.

    Args:
        source: the file.
        section: name of the list in a JSON file; by default the first one of ``testing``, ``inference``, ``validation``.

    Raises:
        InputError: if the list cannot be read or is not complete. One message names the first faults.
    """
    path = checked_path(source, "list")
    rows: Sequence[tuple[str, Mapping[str, Any]]]
    if path.suffix.lower() == ".json":
        content, name, base = load_datalist(path)
        items, name = section_of(content, name, section, "image of the set")
        refuse(
            [f"item {n} is no object" for n, item in enumerate(items, 1) if not isinstance(item, Mapping)], name, "write one"
        )
        rows = [(f"item {number}", item) for number, item in enumerate(items, 1)]
    elif section is not None:
        raise InputError(f"section {section}: {path} is no JSON file; leave it out, or name a JSON file")
    else:
        name, base = f"list {path}", path.parent
        rows = csv_rows(path, name, ["image"])[0]
    refuse([f"{where} has no image" for where, row in rows if not row.get("image")], name, "complete the list")
    names = distinct_names([str(row["image"]) for _, row in rows])
    return [_subject(row, derived, base) for (_, row), derived in zip(rows, names, strict=True)]


def _subject(row: Mapping[str, Any], derived: str, base: Path) -> Subject:
    """A subject with absolute paths."""
    files = {name: str((base / checked_path(row[name], name)).absolute()) for name in FILES if row.get(name)}
    contrast = first_given(row.get("contrast"))
    name = str(first_given(row.get("id"), derived)).strip()
    return Subject(id=name, contrast="" if contrast is None else str(contrast).strip(), **files)


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Names of files that are safe ids: their stems, preceded by as many of their folders as tell them apart.

    >>> distinct_names(["a/ses-1/t1.nii.gz", "a/ses-2/t1.nii.gz"])
    ['ses-1_t1', 'ses-2_t1']
    """
    parts = [(*Path(path).parts[:-1], stem(path)) for path in paths]
    for count in range(1, max((len(part) for part in parts), default=0) + 1):
        names = [re.sub(r"[^A-Za-z0-9._-]+", "_", "_".join(part[-count:])).strip("._-") for part in parts]
        if len({name.casefold() for name in names}) == len(names):
            return names
    return [stem(path) for path in paths]  # the same file twice, which is refused as a repeated id


def named_visits(visits: Sequence[Subject | Mapping[str, Any] | str | PathLike[str]]) -> list[Subject]:
    """Visits as subjects; files get absolute paths and names."""
    files = [os.fspath(visit) for visit in visits if isinstance(visit, (str, PathLike))]
    names = dict(zip(files, distinct_names(files), strict=True))
    return [
        Subject(names[os.fspath(visit)], str(checked_path(visit, "visit").absolute()))
        if isinstance(visit, (str, PathLike))
        else Subject.of(visit)
        for visit in visits
    ]


def checked_subjects(subjects: Sequence[Subject | Mapping[str, Any]], least: int = 2) -> list[Subject]:
    """The subjects in the order of their ids, which is that of all computations.

    Args:
        subjects: in any order.
        least: smallest number of subjects.

    Raises:
        InputError: for too few subjects, and for unsafe or repeated ids and contrasts.
    """
    found = sorted((Subject.of(subject) for subject in subjects), key=lambda subject: subject.id)
    if len(found) < least:
        raise InputError(f"the set has {len(found)} images; give at least {least}")
    faults = [fault for subject in found if (fault := id_fault(subject.id))]
    counts = Counter(subject.id.casefold() for subject in found)
    faults += [f"id {name!r} occurs {count} times" for name, count in counts.items() if count > 1]
    contrasts = {subject.contrast for subject in found}
    faults += [f"contrast: {fault}" for name in sorted(contrasts) if len(contrasts) > 1 and (fault := id_fault(name))]
    refuse(faults, "set", "change the list")
    return found


def reference_contrast(subjects: Sequence[Subject], wanted: str | None = None) -> str:
    """The contrast of the image that all others are registered to: by default the most frequent one, then the first by name.

    Raises:
        InputError: if no image has the wanted contrast.
    """
    counts = Counter(subject.contrast for subject in subjects)
    if wanted is not None and wanted not in counts:
        raise InputError(f"reference {wanted}: no image has this contrast; choose among {', '.join(sorted(counts))}")
    return min(counts, key=lambda name: (-counts[name], name)) if wanted is None else wanted
