# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading and writing of transform files of all supported tools as :class:`monai_locor.geometry.SpatialTransform`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy

if TYPE_CHECKING:
    from .base import Format
    from .files import planned_files, read_transform, read_transforms, write_transform
    from .formats import FORMATS, formats_text

__all__ = ["FORMATS", "Format", "formats_text", "planned_files", "read_transform", "read_transforms", "write_transform"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "base": ["Format"],
        "files": ["planned_files", "read_transform", "read_transforms", "write_transform"],
        "formats": ["FORMATS", "formats_text"],
    },
)
