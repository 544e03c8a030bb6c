# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks of input files and names before slow imports, so that errors are reported immediately."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from ..io.transforms.ants_syntax import parse_item

__all__ = ["check_any", "check_device", "check_file", "check_image", "check_paths", "check_transforms", "is_ants_prefix"]

DEVICE_NAME = re.compile(r"(cpu|cuda|mps|xpu|hpu)(:\d+)?")
ANTS_SUFFIXES = ("0GenericAffine.mat", "1Warp.nii.gz")  # appended by ANTs to its output prefix


def check_paths(args: argparse.Namespace) -> None:
    """Check that all options that name files have paths that a file can have.

    Raises:
        InputError: for an unknown user (``~name``), a name that is too long, or a folder that cannot be searched.
    """
    from ..io.paths import expanded

    for value in vars(args).values():
        for path in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(path, Path):
                expanded(path)


def check_file(path: str | Path | None, what: str) -> None:
    """Check that a file exists; None is ignored.

    Raises:
        InputError: if it does not exist.
    """
    if path is not None and not Path(path).expanduser().exists():
        raise InputError(f"{what} {path}: no such file; check its path")


def check_image(path: str | Path | None, what: str) -> None:
    """Check that an image exists and has a valid header; ``FOLDER/UID`` of a DICOM series is accepted."""
    from ..io.dicom import is_dicom, is_series

    if path is None:
        return
    series = is_series(Path(path).expanduser())
    if not series:
        check_file(path, what)
    dicom = series or is_dicom(Path(path).expanduser())
    if not dicom or find_spec("pydicom") is not None:  # without pydicom, ITK reads the header, and is slow to import
        from ..io.grids import read_grid

        read_grid(Path(path), what)


def check_any(path: Path, what: str) -> None:
    """Check that an image, a transform or the output prefix of an ANTs run exists."""
    from ..io.dicom import is_series

    if not (is_ants_prefix(path.expanduser()) or is_series(path.expanduser())):
        check_file(path, what)


def is_ants_prefix(path: Path) -> bool:
    """Whether a path is the output prefix of an ANTs run."""
    return bool(path.name) and not path.exists() and any(path.with_name(path.name + end).is_file() for end in ANTS_SUFFIXES)


def check_transforms(items: Sequence[str], formats: Sequence[str] | None = None) -> None:
    """Check transforms (files, output folders of ``register``, ANTs prefixes) and their formats."""
    from ..io.nifti import is_nifti
    from ..io.transforms.detect import format_of_file
    from .transforms import check_formats

    for item, format in zip(items, check_formats(formats, len(items)), strict=True):
        path = parse_item(item)[0]
        if not is_ants_prefix(path):
            check_file(path, "transform")
        if format is None and path.is_file() and is_nifti(path):
            format_of_file(path)  # raises if the format is ambiguous


def check_device(names: str | None, option: str = "--device") -> None:
    """Check the syntax of device names; whether a device exists is checked later.

    Raises:
        InputError: for an invalid name.
    """
    for name in [] if names is None else names.split(","):
        if not DEVICE_NAME.fullmatch(name.strip()):
            raise InputError(f"{option} {names}: {name.strip()!r} is not a device; give cpu, cuda, cuda:1 ...")
