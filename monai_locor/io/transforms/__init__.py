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

"""Transform files of all tools, read into and written from :class:`monai_locor.geometry.SpatialTransform`."""

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
