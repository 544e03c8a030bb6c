# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Error messages for unreadable files: incomplete, of another format, or rejected by the reader."""

from __future__ import annotations

import re
import zlib

from ..errors import InputError, one_line

__all__ = ["read_error"]

# messages of nibabel, numpy and ITK
_DAMAGED = re.compile(
    r"truncated|premature|unexpected end|end.of.file|\beof\b|got \d+ bytes|wanted \d+ bytes|of expected|greater than file"
    r"|mmap length|cannot reshape|buffer (size|is smaller|is too small)|could ?n[o']t read|read failed|corrupt|inflate|\bcrc\b"
    r"|incomplete|file cannot be read|but received|empty file",
    re.IGNORECASE,
)
_NOT_COMPRESSED = re.compile(r"not a gzip(ped)? file", re.IGNORECASE)
_FOREIGN = re.compile(
    r"cannot work out file type|is not nifti|could not create io|unable to determine imageio|wrong magic|magic string"
    r"|not a (nifti|minc|mgh)|no such format|not recognized",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"w2 should be positive|data code|sizeof_hdr|negative count|unknown mgh|header"
    r"|memory mapped offset|int too large|index-sized",
    re.IGNORECASE,
)
_REMEDIES = {
    _NOT_COMPRESSED: "its name ends in .gz but it is not compressed, rename it or copy it again",
    _FOREIGN: "neither nibabel nor ITK reads its format, convert it",
    _DAMAGED: "it is incomplete or damaged, copy or make it again",
    _HEADER: "its header is invalid, repair it or save it again",
}


def read_error(name: str, error: BaseException) -> InputError:
    """The one-line error for a file that could not be read.

    Args:
        name: role and name of the file.
        error: exception raised by the reader.
    """
    if isinstance(error, MemoryError):
        reason = f": {one_line(error)}" if str(error) else ""
        return InputError(
            f"{name}: cannot be read (it needs more memory than there is{reason}); crop it, or use another machine"
        )
    if isinstance(error, OSError) and error.strerror:
        where = (
            f": {error.filename}" if error.filename and str(error.filename) not in name else ""
        )  # e.g. the other file of an .hdr/.img pair
        return InputError(f"{name}: cannot be read ({error.strerror}{where}); check the path and that you may read it")
    if isinstance(error, (EOFError, zlib.error)):
        return InputError(f"{name}: cannot be read ({one_line(error)}); {_REMEDIES[_DAMAGED]}")
    for line in reversed(str(error).splitlines()):
        for pattern, remedy in _REMEDIES.items():
            if pattern.search(line):
                return InputError(f"{name}: cannot be read ({line.strip(' -')[:200]}); {remedy}")
    if isinstance(error, (OSError, RuntimeError)):  # from ITK or the file system; other types indicate a bug
        remedy = "it is damaged or its reader does not support it; convert it to NIfTI"
        return InputError(f"{name}: cannot be read ({one_line(error)}); {remedy}")
    kind = type(error).__name__
    return InputError(
        f"{name}: cannot be read ({kind}: {one_line(error)}); convert it to NIfTI with another tool, or report this message"
    )
