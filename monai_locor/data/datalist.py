# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pairs of images to register: a single pair, or a datalist in a JSON file as in MONAI."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io import check_output_dir
from ..io.paths import expanded, no_empty_folders, read_json
from ..roles import ROLES

__all__ = ["check_writable", "checked_path", "load_datalist", "refuse", "registration_pairs", "section_of", "stem"]

PAIR_SECTIONS = ("testing", "inference", "validation")  # of a datalist; the first one present is used
MASK_KEYS = ("fixed_mask", "moving_mask")
MAX_NAMED_FAULTS = 5  # that a message lists


def registration_pairs(
    fixed: str | os.PathLike[str] | None = None,
    moving: str | os.PathLike[str] | None = None,
    datalist: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
    dataset_dir: str | os.PathLike[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    fixed_mask: str | os.PathLike[str] | None = None,
    moving_mask: str | os.PathLike[str] | None = None,
    section: str | None = None,
) -> list[dict[str, str]]:
    """Pairs to register, with every path checked.

    Give either ``fixed`` and ``moving``, or ``datalist``: a JSON file (or its content) with a list of pairs under
    ``"testing"``, ``"inference"`` or ``"validation"``, or just the list. A pair is
    ``{"fixed": ..., "moving": ..., "fixed_mask": ..., "moving_mask": ..., "name": ...}``, the last three optional.

    Args:
        fixed, moving: files of one pair, or folders of one DICOM series each.
        datalist: see above.
        dataset_dir: base of relative image paths; by default the folder of the datalist, or for a single pair the working
            directory.
        output_dir: if given, checked to be writable first. Nothing is left there.
        fixed_mask, moving_mask: masks of one pair.
        section: name of the list in the datalist.

    Returns:
        for each pair its absolute paths under the keys above, its ``"name"``, and ``"folder"``, the subfolder of ``output_dir``
        for its results: ``""`` for a single pair, unique for each pair of a datalist.

    Raises:
        InputError: if something is missing, in one line.
    """
    if output_dir is not None:
        check_writable(checked_path(output_dir, "output_dir"))
    single = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    given = {key: value for key, value in single.items() if value is not None}
    if datalist is not None and given:
        raise InputError(f"got a datalist and {', '.join(given)}; give one or the other")
    if datalist is None:
        missing = [key for key in ROLES if key not in given]
        if missing:
            raise InputError(f"no {' and no '.join(missing)} image; give both fixed and moving, or a datalist")
        return [{**_checked([given], checked_path(dataset_dir or ".", "dataset_dir"), "")[0], "folder": ""}]
    content, name, base = load_datalist(datalist)
    items, source = section_of(content, name, section)
    pairs = _checked(items, base if dataset_dir is None else checked_path(dataset_dir, "dataset_dir"), source)
    _name_folders(pairs)
    if output_dir is not None:
        for pair in pairs:
            check_writable(checked_path(output_dir, "output_dir") / pair["folder"])
    return pairs


def checked_path(value: Any, what: str) -> Path:
    """A path; a command line may have parsed its name as a number.

    Raises:
        InputError: if it cannot be a path.
    """
    if isinstance(value, (bool, bytes)) or not isinstance(value, (str, os.PathLike, int, float)) or str(value) == "":
        raise InputError(f"{what} must be the name of a file or folder, got {value!r}")
    return expanded(str(value), f"{what} {value}")


def check_writable(folder: Path) -> None:
    """Like :func:`monai_locor.io.check_output_dir`, but remove the folders that the check created."""
    with no_empty_folders(folder):
        check_output_dir(folder)


def load_datalist(datalist: Any) -> tuple[Any, str, Path]:
    """The content of a datalist, its name for messages, and its folder.

    Raises:
        InputError: if the file cannot be read.
    """
    if not isinstance(datalist, (str, os.PathLike)):
        return datalist, "datalist", Path()
    path = checked_path(datalist, "datalist")
    name = f"datalist {path}"
    try:
        return read_json(path), name, path.parent
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); check its path") from error
    except ValueError as error:
        raise InputError(f"{name}: is not valid JSON ({error})") from error


def section_of(
    content: Any, name: str, section: str | None, what: str = "pair of fixed and moving image"
) -> tuple[list[Any], str]:
    """One list of a datalist and its name for messages; without ``section``, the first list of pairs to register.

    Raises:
        InputError: if there is no such list, or it is empty.
    """
    if isinstance(content, Mapping):
        known = [section] if section else [s for s in PAIR_SECTIONS if s in content]
        if not known or known[0] not in content:
            wanted = section or ", ".join(PAIR_SECTIONS[:-1]) + f" or {PAIR_SECTIONS[-1]}"
            raise InputError(f"{name}: has {', '.join(map(str, content)) or 'no keys'}, but no list {wanted}; name one so")
        name, content = f"{name}, {known[0]}", content[known[0]]
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        raise InputError(f"{name}: is not a list with at least one {what}; write one")
    return list(content), name


def refuse(faults: Sequence[str], source: str, remedy: str = "check the paths") -> None:
    """Raise one message for all faults of a list, naming the first ones.

    Args:
        faults: one text each.
        source: name of the list; may be empty.
        remedy: end of the message.

    Raises:
        InputError: if there is a fault.
    """
    if faults:
        more = f" (and {len(faults) - MAX_NAMED_FAULTS} more)" if len(faults) > MAX_NAMED_FAULTS else ""
        raise InputError(f"{source}{': ' if source else ''}{'; '.join(faults[:MAX_NAMED_FAULTS])}{more}; {remedy}")


def _checked(items: Sequence[Any], base: Path, source: str) -> list[dict[str, str]]:
    """The items with absolute paths and names; one message lists all missing files."""
    pairs, faults = [], []
    for number, item in enumerate(items):
        where = f"pair {number + 1}: " if source else ""
        if not isinstance(item, Mapping):
            faults.append(f"{where}is {item!r}, not an object with fixed and moving")
            continue
        faults += [f"{where}has no {key}" for key in ROLES if item.get(key) is None]
        pair = {}
        for key in (key for key in (*ROLES, *MASK_KEYS) if item.get(key) is not None):
            path = (base / checked_path(item[key], f"{where}{key}")).absolute()
            pair[key] = str(path)
            if not path.exists():
                faults.append(f"{where}{key.replace('fixed', 'fixed image').replace('image_', '')} {path}: no such file")
        pair["name"] = str(item.get("name") or item.get("id") or "_to_".join(stem(pair[k]) for k in ROLES if k in pair))
        pairs.append(pair)
    refuse(faults, source)
    return pairs


def stem(path: str) -> str:
    """The name of a file without its folder and suffix; ``.nii.gz`` is one suffix."""
    name = Path(path).name
    return Path(name[:-3] if name.lower().endswith(".gz") else name).stem


def _name_folders(pairs: list[dict[str, str]]) -> None:
    """Give every pair a ``"folder"`` that is a safe file name and unique on any file system."""
    wanted = [re.sub(r"[^\w+.-]+", "_", pair["name"]).strip("._-")[:100] or "pair" for pair in pairs]
    taken = {name.casefold() for name in wanted}
    seen: set[str] = set()
    for pair, name in zip(pairs, wanted, strict=True):
        folder, number = name, 1
        while folder.casefold() in seen or (number > 1 and folder.casefold() in taken):
            number += 1
            folder = f"{name}_{number}"
        seen.add(folder.casefold())
        pair["folder"] = folder
