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

"""Why a file cannot be read: it is incomplete, of another format, or its reader failed for a reason of its own."""

from __future__ import annotations

import gzip
import re
import zlib

from ..errors import InputError, one_line

__all__ = ["unreadable"]

# how nibabel, numpy and ITK say that bytes are missing or wrong
_DAMAGED = re.compile(
    r"truncated|premature|unexpected end|end.of.file|\beof\b|got \d+ bytes|bytes from|greater than file|mmap length"
    r"|cannot reshape|buffer (size|is smaller)|could ?n[o']t read|read failed|corrupt|inflate|crc|incomplete|empty file",
    re.IGNORECASE,
)
_FOREIGN = re.compile(
    r"cannot work out file type|is not nifti|could not create io|unable to determine imageio|wrong magic|magic string"
    r"|not a (nifti|minc|mgh)|no such format|not recognized",
    re.IGNORECASE,
)


def unreadable(name: str, error: BaseException) -> InputError:
    """What to tell the user of a file that its reader failed on, in one line.

    Args:
        name: of the file, with its part.
        error: that the reader raised.
    """
    gist = one_line(error)
    if isinstance(error, MemoryError):
        return InputError(f"{name}: cannot be read (it needs more memory than there is); crop it, or use another machine")
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{name}: cannot be read ({error.strerror}); check the path and that you may read it")
    if isinstance(error, gzip.BadGzipFile) and "not a gzipped file" in gist.lower():
        return InputError(f"{name}: cannot be read (named .gz, but not compressed); rename it or copy it again")
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)) or _DAMAGED.search(gist):
        return InputError(f"{name}: cannot be read ({gist}); it is incomplete or damaged, copy or make it again")
    if _FOREIGN.search(gist):
        return InputError(f"{name}: cannot be read ({gist}); its content is in no format that nibabel or ITK reads, convert it")
    kind = type(error).__name__
    return InputError(f"{name}: cannot be read ({kind}: {gist}); convert it to NIfTI with another tool, or report this message")
