# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""HDF5 files are checked in a process of their own before they are read.

In damaged files, the HDF5 library follows addresses that are wrong. It may then never return, or end the process. So another
process opens every object first.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["check_hdf5", "open_hdf5"]

SECONDS = 20  # for the start of the process and the objects of a small file
BYTES_PER_SECOND = 2**24  # on top, for the chunks that are decompressed
WALK = """
import contextlib, sys
sys.path[:] = filter(None, sys.path)
import h5py
def visit(name, part):
    with contextlib.suppress(Exception):
        for key in part.attrs:
            part.attrs[key]
    with contextlib.suppress(Exception):
        if isinstance(part, h5py.Dataset) and part.size:
            part[(0,) * part.ndim], part[(-1,) * part.ndim]
with h5py.File(sys.argv[1], "r") as file:
    visit("/", file)
    file.visititems(visit)
"""


def check_hdf5(path: Path) -> None:
    """Open all objects of a file, and read all attributes and the first and last value of all arrays, in another process.

    A file is checked once as long as it is not changed. What h5py refuses is no error here: it is when the file is read.

    Raises:
        ValueError: if the HDF5 library does not return, or the process ends.
    """
    state = path.stat()
    problem = _problem(path.resolve(), state.st_mtime_ns, state.st_size)
    if problem:
        raise ValueError(f"is a damaged HDF5 file, {problem}")


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file for reading with h5py, which must be installed, after :func:`check_hdf5`.

    Raises:
        Exception: various types, if the file is damaged.
    """
    import h5py

    check_hdf5(path)
    with h5py.File(path, "r") as file:
        yield file


@functools.lru_cache(maxsize=64)
def _problem(path: Path, _: int, size: int) -> str:
    if not sys.executable or getattr(sys, "frozen", False):  # this process is not Python itself, but a program with it inside
        return ""
    limit = SECONDS + size / BYTES_PER_SECOND
    try:
        # not isolated from the environment: h5py may be found by PYTHONPATH
        done = subprocess.run([sys.executable, "-c", WALK, str(path)], capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"reading it took more than {limit:.0f} s"
    except OSError:  # no process can be started here
        return ""
    return f"reading it ended a process with signal {-done.returncode}" if done.returncode < 0 else ""
