# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Read lists of pairs: CSV files, datalists of MONAI and Learn2Reg, BIDS folders."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..data.datalist import PAIR_SECTIONS, checked_path, load_datalist, refuse, section_of, stem
from ..errors import InputError
from ..roles import ROLES
from .bids import bids_pairs
from .pairs import FILE_KEYS, CohortPair

__all__ = ["csv_rows", "first_given", "read_pairs"]

logger = logging.getLogger(__name__)

LEARN2REG_SECTIONS = ("registration_val", "training_paired_images", "registration_test")  # the first one present is used
DELIMITERS = (",", ";", "\t")


def read_pairs(
    source: str | PathLike[str],
    *,
    section: str | None = None,
    fixed: str | None = None,
    moving: str | None = None,
) -> list[CohortPair]:
    """Read the pairs of a cohort from a file or folder.

    - A CSV file (comma, semicolon or tab) with a header line. The columns ``fixed`` and ``moving`` are required; ``id``,
      ``fixed_mask``, ``moving_mask``, ``fixed_labels``, ``moving_labels``, ``fixed_landmarks``, ``moving_landmarks``,
      ``fixed_driving_labels``, ``moving_driving_labels`` and ``initial`` (a transform) are optional, other columns are ignored.
    - A JSON file: a datalist of MONAI with the same names, or the ``dataset.json`` of a Learn2Reg task, whose masks are used.
    - A BIDS folder: one pair for each session of each subject that has both images.

    Relative paths are relative to the folder of the file. Without ids, pairs are named ``<moving>_to_<fixed>`` by their files.
    Whether the files exist is checked by :func:`.pairs.check_pairs`.

    Args:
        source: the file or folder.
        section: name of the list in a JSON file; by default the first one of ``testing``, ``inference``, ``validation``
            (MONAI), ``registration_val``, ``training_paired_images``, ``registration_test`` (Learn2Reg).
        fixed, moving: images of a BIDS folder: a suffix, with entities if it is ambiguous: ``"T1w"``, ``"acq-mprage_T1w"``.

    Raises:
        InputError: if the list cannot be read or is not complete. One message names the first faults.
    """
    path = checked_path(source, "pairs")
    if path.is_dir():
        if section is not None:
            raise InputError(f"section {section}: {path} is a folder; leave it out, or name a JSON file")
        return bids_pairs(path, fixed, moving)
    if fixed is not None or moving is not None:
        raise InputError(f"{path}: is not a folder; names of fixed and moving images apply to BIDS folders only")
    if path.suffix.lower() == ".json":
        return _json_pairs(path, section)
    if section is not None:
        raise InputError(f"section {section}: {path} is no JSON file; leave it out, or name a JSON file")
    return _csv_pairs(path)


def _csv_pairs(path: Path) -> list[CohortPair]:
    name = f"pairs {path}"
    numbered, columns = csv_rows(path, name, ROLES)
    _refuse_unknown(columns, name)
    return _pairs_of(numbered, path.parent, name)


def csv_rows(path: Path, name: str, required: Sequence[str]) -> tuple[list[tuple[str, dict[str, str]]], list[str]]:
    """The lines of a CSV file (comma, semicolon or tab) with a header line.

    Args:
        path: the file.
        name: its name for messages.
        required: columns that it must have.

    Returns:
        for each line that is not empty, its place for messages and its values; and the names of the columns.

    Raises:
        InputError: if it cannot be read, has no line, or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=first.count)
            reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); check its path") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{name}: is not a CSV file ({error}); save it as CSV in UTF-8") from error
    if not rows:
        raise InputError(f"{name}: has no row; write a header line with {','.join(required)}, then one line for each row")
    columns = [str(column) for column in rows[0][1] if column]
    missing = [column for column in required if column not in columns]
    if missing:
        raise InputError(
            f"{name}: has no column {' and no column '.join(missing)}, but {', '.join(columns)}; name the columns so"
        )
    numbered = [(f"line {number}", row) for number, row in rows if any(v for v in row.values())]
    refuse([f"{where} has more fields than the header" for where, row in numbered if None in row], name, "quote commas")
    return numbered, columns


def first_given(*values: Any) -> Any:
    """The first value that is neither None nor an empty text; None without any.

    >>> first_given(None, "", 0, "a")
    0
    """
    return next((value for value in values if value not in (None, "")), None)


def _json_pairs(path: Path, section: str | None) -> list[CohortPair]:
    content, name, base = load_datalist(path)
    known = (*PAIR_SECTIONS, *LEARN2REG_SECTIONS)
    if section is None and isinstance(content, Mapping):
        section = next((each for each in known if content.get(each)), None)
        if section is None:
            raise InputError(f"{name}: has no list {', '.join(known[:-1])} or {known[-1]}; name its list of pairs so")
        logger.info("%s: using the list %s", name, section)
    found = content.get(section) if isinstance(content, Mapping) and section else content
    if isinstance(found, Mapping):  # Learn2Reg has lists by modality as well
        content = {str(section): [item for part in found.values() if isinstance(part, Sequence) for item in part]}
    items, source = section_of(content, name, section)
    masks = _learn2reg_masks(load_datalist(path)[0])
    numbered = []
    for number, item in enumerate(items, 1):
        where = f"pair {number}"
        if not isinstance(item, Mapping):
            raise InputError(f"{source}: {where} is {item!r}, not an object with fixed and moving; write one")
        _refuse_unknown([str(key) for key in item], f"{source}: {where}")
        own = {f"{role}_mask": masks.get(str(item.get(role))) for role in ROLES}
        numbered.append((where, {**own, **item, "id": first_given(item.get("id"), item.get("name"))}))
    return _pairs_of(numbered, base, source)


def _learn2reg_masks(content: Any) -> dict[str, str]:
    """The masks that a ``dataset.json`` of Learn2Reg names, by image."""
    lists = content.values() if isinstance(content, Mapping) else ()
    parts = [part for found in lists for part in (found.values() if isinstance(found, Mapping) else [found])]
    items = (item for part in parts if isinstance(part, list) for item in part if isinstance(item, Mapping))
    return {str(item["image"]): str(item["mask"]) for item in items if item.get("image") and item.get("mask")}


def _refuse_unknown(names: Sequence[str], source: str) -> None:
    """Refuse names such as ``fixed_maks``, which are probably misspelled."""
    unknown = [name for name in names if name.startswith(ROLES) and name not in FILE_KEYS]
    if unknown:
        raise InputError(f"{source}: unknown {', '.join(unknown)}; known are {', '.join(FILE_KEYS)}")


def _pairs_of(rows: Sequence[tuple[str, Mapping[str, Any]]], base: Path, source: str) -> list[CohortPair]:
    """Pairs with absolute paths; each row comes with its place for messages."""
    pairs, faults, derived = [], [], False
    for where, row in rows:
        faults += [f"{where} has no {role}" for role in ROLES if not row.get(role)]
        files = {key: _absolute(row[key], base, f"{where}: {key}") for key in FILE_KEYS if row.get(key)}
        own = first_given(row.get("id"))
        derived = derived or own is None
        if all(role in files for role in ROLES):
            name = f"{stem(files['moving'])}_to_{stem(files['fixed'])}" if own is None else str(own)
            pairs.append(CohortPair(name.strip(), **files))
    refuse(faults, source, "complete the list")
    if derived and len({pair.id.casefold() for pair in pairs}) < len(pairs):
        raise InputError(f"{source}: file names alone do not tell all pairs apart; give each pair an id")
    return pairs


def _absolute(value: Any, base: Path, what: str) -> str:
    return str((base / checked_path(value.strip() if isinstance(value, str) else value, what)).absolute())
