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

"""What a command line says, as values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["within"]


def within(folder: Any, name: str) -> str | None:
    """Path of a file or folder in a folder; None where that is None, or a command line's word for it."""
    return None if str(folder).lower() in ("none", "null", "false", "") else str(Path(str(folder)).expanduser() / name)
