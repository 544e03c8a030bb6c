# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks of the sizes that file headers state, before memory is allocated for them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["check_stated_size"]

MAX_DEFLATE_RATIO = 1032  # of uncompressed to compressed size, a limit of the format
HEADER_BYTES = 2**16  # allowed in addition


def check_stated_size(path: Path, stated_bytes: int, complete: bool = False) -> None:
    """Check that a file can hold as many bytes as its header states, and that they fit into memory.

    Args:
        path: the file.
        stated_bytes: size of the values, uncompressed.
        complete: whether the values are in this file, uncompressed or compressed with DEFLATE (gzip, zlib).

    Raises:
        ValueError: if the file is too small.
        MemoryError: if they do not fit into the memory of this machine.
    """
    size = path.stat().st_size
    if complete and stated_bytes > MAX_DEFLATE_RATIO * size + HEADER_BYTES:
        raise ValueError(f"its header states {_shown(stated_bytes)}, but the file is truncated: it has {_shown(size)}")
    memory = _memory_bytes()
    if memory and stated_bytes > memory:
        raise MemoryError(f"its header states {_shown(stated_bytes)}, this machine has {_shown(memory)}")


def _shown(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count} bytes"


def _memory_bytes() -> int:
    """Physical memory; 0 if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 0
