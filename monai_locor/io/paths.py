# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Output paths: checks before a computation, and atomic writing."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, one_line

__all__ = [
    "FORWARD",
    "IMAGE_SUFFIXES",
    "INVERSE",
    "LOSSY_SUFFIXES",
    "PICTURE_SUFFIXES",
    "STATE_FOLDER",
    "WORK_FOLDER",
    "ZARR_FORWARD",
    "ZARR_INVERSE",
    "atomic_path",
    "check_output_dir",
    "expanded",
    "is_picture",
    "lock_file",
    "locked_folder",
    "no_empty_folders",
    "read_json",
    "remove_state",
    "write_json",
]

FORWARD, INVERSE = "forward_field.nii.gz", "inverse_field.nii.gz"  # transform files in the output folder of `register`
ZARR_FORWARD, ZARR_INVERSE = "forward_field.ome.zarr", "inverse_field.ome.zarr"  # of `register --blocks`
# folders in an output folder that a run deletes as a whole: no other program makes folders of these names
STATE_FOLDER, WORK_FOLDER = "monai_locor_state", ".monai_locor_work"
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")  # image formats that can be written
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")  # of 2-D images without a position in space
TOKEN_BYTES = 4  # of the names of temporary files
LOSSY_SUFFIXES = (".jpg", ".jpeg")


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file name has a suffix of pictures.

    >>> is_picture("he.JPG"), is_picture("t1.nii.gz")
    (True, False)
    """
    return Path(path).suffix.lower() in PICTURE_SUFFIXES


def expanded(path: str | os.PathLike[str], name: str = "") -> Path:
    """A path with ``~`` expanded.

    Args:
        path: of a file or folder, which need not exist.
        name: name for messages; by default the path.

    Raises:
        InputError: if no file can have this path: unknown user, name too long, folder that cannot be searched.
    """
    try:
        found = Path(path).expanduser()
        found.exists()  # its own errors are those of such paths
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{name or os.fspath(path)}: cannot be used ({reason}); check the path") from error
    return found


def _missing(folder: Path) -> list[Path]:
    """The missing folders of a path, innermost first."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()  # removes empty folders only


@contextmanager
def no_empty_folders(path: str | os.PathLike[str]) -> Iterator[None]:
    """On exit, remove those folders of ``path`` that are empty and did not exist before."""
    missing: list[Path] = []
    with suppress(OSError, InputError):  # folders that cannot be listed were not made here
        missing = _missing(expanded(path))
    try:
        yield
    finally:
        _remove_empty(missing)


def check_output_dir(path: str | os.PathLike[str]) -> Path:
    """Check before a long computation that a folder is writable; create it and its parents if missing.

    Args:
        path: the folder; ``~`` is expanded, an empty name is the working directory.

    Returns:
        the folder, which exists.

    Raises:
        InputError: if a file has this name, or the folder cannot be created or written to. Created folders are removed.
    """
    folder = expanded(path, f"output folder {os.fspath(path)}")
    if folder.is_file():
        raise InputError(f"output folder {folder}: a file of this name is in the way; name another folder")
    missing: list[Path] = []
    try:
        missing = _missing(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        _remove_empty(missing)
        reason = error.strerror or type(error).__name__
        raise InputError(f"output folder {folder}: cannot be written to ({reason}); name another") from error
    return folder


def lock_file(descriptor: int, folder: Path) -> None:
    """Lock an open file or folder until it is closed, which the system does if the process is killed.

    Args:
        descriptor: of the file.
        folder: the output folder that the lock is for, for the message.

    Raises:
        InputError: if another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"output folder {folder}: another run is working in it; wait for its end, or name another") from error
    except OSError:  # some network file systems have no locks
        return


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create a folder and keep out other processes that call this, without a file in it; an empty new folder is removed.

    Raises:
        InputError: if another process has locked it, or it cannot be written.
    """
    with no_empty_folders(folder):
        check_output_dir(folder)
        if os.name == "nt":  # folders cannot be opened
            yield
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            lock_file(descriptor, folder)
            yield
        finally:
            os.close(descriptor)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` that replaces it on success and is removed on failure.

    It ends in the name of ``path``, so that writers select the format by the same suffix. ``~`` is expanded.

    Raises:
        InputError: if no file can have this path, see :func:`expanded`.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(os.path.join(folder, "a.txt")) as name:
    ...         _ = name.write_text("whole")
    ...     os.listdir(folder)
    ['a.txt']
    """
    target = expanded(path, f"output file {os.fspath(path)}")
    temporary = target.with_name(f".{secrets.token_hex(TOKEN_BYTES)}-{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_state(folder: Path) -> None:
    """Remove what earlier, killed processes left in an output folder of a finished run: its saved state and temporary files.

    A temporary file of :func:`atomic_path` is removed only if the file that it was for exists.
    """
    for path in folder.glob(f".{2 * TOKEN_BYTES * '[0-9a-f]'}-*"):
        if path.is_file() and path.with_name(path.name[2 + 2 * TOKEN_BYTES :]).is_file():
            path.unlink(missing_ok=True)
    shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not JSON, or nested too deeply.
    """
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write plain values as a JSON file; it appears only when it is complete."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
