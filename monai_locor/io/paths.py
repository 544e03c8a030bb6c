# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Output paths: checked before the work starts, and never seen half-written."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError

__all__ = ["FORWARD", "IMAGE_SUFFIXES", "INVERSE", "atomic_path", "check_output_dir", "no_empty_folders"]

FORWARD, INVERSE = "forward_field.nii.gz", "inverse_field.nii.gz"  # the transform of `register` in its folder
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")  # of images that can be written


def _missing(folder: Path) -> list[Path]:
    """The missing folders on the way to a folder, innermost first."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()  # removes empty folders only


@contextmanager
def no_empty_folders(path: str | os.PathLike[str]) -> Iterator[None]:
    """On exit, remove empty folders on the way to ``path`` that did not exist before."""
    folder = Path(path).expanduser()
    missing: list[Path] = []
    with suppress(OSError):  # folders that cannot be listed were not made here
        missing = _missing(folder)
    try:
        yield
    finally:
        _remove_empty(missing)


def check_output_dir(path: str | os.PathLike[str]) -> Path:
    """Make sure, before a long computation, that files can be written to a folder; create it with its parents if need be.

    Args:
        path: the folder; ``~`` is expanded, an empty name is the working directory.

    Returns:
        the folder, which now exists.

    Raises:
        InputError: when a file is in the way or the folder cannot be created or written to. Nothing is left behind then.
    """
    folder = Path(path).expanduser()
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


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to, which takes its place on success and is removed on failure.

    It ends in the name of ``path``, so that writers that go by the suffix choose the same format.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(os.path.join(folder, "a.txt")) as name:
    ...         _ = name.write_text("whole")
    ...     os.listdir(folder)
    ['a.txt']
    """
    target = Path(path)
    temporary = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
