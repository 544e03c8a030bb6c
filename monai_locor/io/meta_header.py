# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Check of MetaImage headers, on some of which ITK's reader ends the process."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["check_meta_header"]

SUFFIXES = (".mha", ".mhd")
HEAD_BYTES = 2**16
MAX_AXES = 10  # of MetaIO's arrays
_FIELD = re.compile(rb"^[ \t]*(NDims|DimSize|ElementNumberOfChannels)[ \t]*=([^\r\n]*)", re.MULTILINE)


def check_meta_header(path: Path) -> None:
    """Check the number of axes and the sizes in the header of a MetaImage; other files pass.

    Raises:
        ValueError: if they are missing, repeated or out of range.
    """
    if path.suffix.lower() not in SUFFIXES:
        return
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    end = re.search(rb"^[ \t]*ElementDataFile[ \t]*=", head, re.MULTILINE)
    found = [
        (key.decode(), value.decode("latin-1").split()) for key, value in _FIELD.findall(head[: end.start()] if end else head)
    ]
    fields = dict(found)
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
