# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The files that hold the content of an input: those of a folder, of a DICOM series, of a header and its data. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .dicom import is_series

__all__ = ["stored_files", "stored_place"]

# suffixes of files with a companion file, and the suffixes of the companion
COMPANION_SUFFIXES = {
    ".hdr": (".img",),
    ".img": (".hdr",),
    ".mhd": (".raw", ".zraw"),
    ".nhdr": (".raw", ".raw.gz"),
    ".safetensors": (".json",),
}


def stored_place(path: Path) -> Path:
    """Resolve a path: weights given without suffix, the folder of a DICOM series, or the path itself."""
    weights = path.with_name(path.name + ".safetensors")
    if not path.exists() and weights.is_file():
        return weights
    return path.parent if not path.exists() and is_series(path) else path


def stored_files(root: Path, transform: bool = False) -> Iterator[Path]:
    """The files of an input, in the order of their names; none if it does not exist.

    Args:
        root: see :func:`stored_place`.
        transform: only the transform in an output folder of ``register``.
    """
    if root.is_dir() and not transform:
        yield from sorted(p for p in root.rglob("*") if p.is_file())
        return
    if transform and (root.is_dir() or not root.exists()):  # an output folder or the prefix of an ANTs registration
        from .transforms.ants import ants_files
        from .transforms.output_folder import files_in

        yield from (files_in(root) if root.is_dir() else (p for p in ants_files(root) if p.is_file()))
        return
    if not root.exists():
        return
    yield root
    for suffix in COMPANION_SUFFIXES.get(root.suffix, ()):
        beside = root.with_suffix(suffix)
        if beside.is_file():
            yield beside
