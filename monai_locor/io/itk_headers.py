# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks of MetaImage and NRRD headers: on some that are invalid, ITK's readers crash and end the process, or never end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_directions", "check_itk_header"]

META_SUFFIXES = (".mha", ".mhd")
HEAD_BYTES = 2**16
MAX_FIELD_CHARACTERS = 900  # the messages of the reader about invalid fields have buffers of 1024
FREE_TEXT = (b"#", b"content:", b"labels:", b"units:", b"space units:")
MAX_AXES = 10  # of MetaIO's arrays
MAX_DIRECTION = 1e100  # ITK factorizes the matrix of directions, which does not end for numbers near the largest
_FIELD = re.compile(rb"^[ \t]*(NDims|DimSize|ElementNumberOfChannels)[ \t]*=([^\r\n]*)", re.MULTILINE)


def check_itk_header(path: Path) -> None:
    """Check the header of a MetaImage or NRRD file; other files pass.

    Raises:
        ValueError: if ITK might crash: number of axes or sizes are missing, repeated or out of range, or a line is too long.
    """
    if path.suffix.lower() in META_SUFFIXES:
        _check_meta(path)
    else:
        _check_nrrd(path)


def check_directions(values: Iterable[float]) -> None:
    """Check the directions of the axes in a header that ITK has read, before it makes an image of it.

    Raises:
        ValueError: if one is out of range.
    """
    largest = max((abs(value) for value in values), default=0.0)
    if largest > MAX_DIRECTION:
        raise ValueError(f"its header is invalid, a direction of an axis has a component of {largest:g}")


def _check_nrrd(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"NRRD":
            return
        while line := file.readline().strip():
            free = line.startswith(FREE_TEXT) or b":=" in line
            if len(line) > MAX_FIELD_CHARACTERS and not free:
                raise ValueError(f"its header is invalid, a line of it has {len(line)} characters")


def _check_meta(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    end = re.search(rb"^[ \t]*ElementDataFile[ \t]*=([^\r\n]*)", head, re.MULTILINE)
    found = [
        (key.decode(), value.decode("latin-1").split()) for key, value in _FIELD.findall(head[: end.start()] if end else head)
    ]
    fields = dict(found)
    if end and (len(end[1]) > MAX_FIELD_CHARACTERS or re.search(rb"[\0-\x08\x0e-\x1f]", end[1])):
        raise ValueError("its header is invalid, ElementDataFile is not a file name")
    if len(fields) < len(found):
        raise ValueError("its header is invalid, a field of it is repeated")
    axes = _whole(fields.get("NDims", []), "NDims", MAX_AXES)
    if len(axes) != 1 or len(_whole(fields.get("DimSize", []), "DimSize", 2**31)) != axes[0]:
        raise ValueError(f"its header is invalid, NDims = {axes} and DimSize = {fields.get('DimSize')}")
    _whole(fields.get("ElementNumberOfChannels", []), "ElementNumberOfChannels", 2**16)


def _whole(words: list[str], key: str, most: int) -> list[int]:
    """Whole numbers from 1 to ``most``."""
    if any(not word.isdecimal() or len(word) > 10 or not 1 <= int(word) <= most for word in words):
        raise ValueError(f"its header is invalid, {key} = {' '.join(words)[:50]}")
    return [int(word) for word in words]
