# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The syntax of ``antsApplyTransforms -t``: FILE or [FILE,1]. Does not import torch."""

from __future__ import annotations

import re
from pathlib import Path

from ..paths import expanded

__all__ = ["parse_item"]

_ITEM = re.compile(r"\[\s*(.+?)\s*,\s*([01])\s*\]")


def parse_item(text: str) -> tuple[Path, bool]:
    """Parse an item into a file and a flag that is True if the file is to be inverted.

    >>> parse_item("[0GenericAffine.mat,1]"), parse_item("warp.nii.gz")
    ((PosixPath('0GenericAffine.mat'), True), (PosixPath('warp.nii.gz'), False))
    """
    found = _ITEM.fullmatch(text)
    return (expanded(found[1]), found[2] == "1") if found else (expanded(text), False)
