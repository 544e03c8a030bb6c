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

"""Items of a list of transforms as antsApplyTransforms writes them. Without torch."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["parse_item"]

_ITEM = re.compile(r"\[\s*(.+?)\s*,\s*([01])\s*\]")


def parse_item(text: str) -> tuple[Path, bool]:
    """A file, and whether its inverse is meant.

    >>> parse_item("[0GenericAffine.mat,1]"), parse_item("warp.nii.gz")
    ((PosixPath('0GenericAffine.mat'), True), (PosixPath('warp.nii.gz'), False))
    """
    found = _ITEM.fullmatch(text)
    return (Path(found[1]).expanduser(), found[2] == "1") if found else (Path(text).expanduser(), False)
