# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a command reads, checked before anything heavy is imported: a typo is told at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from ..io.transforms.ants_syntax import parse_item

__all__ = ["check_any", "check_device", "check_file", "check_image", "check_transforms", "is_ants_prefix"]

DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hpu)(:\d+)?")
ANTS = ("0GenericAffine.mat", "1Warp.nii.gz")  # what a prefix of ANTs stands for


def check_file(path: str | Path | None, what: str) -> None:
    """Refuse a file that is not there; None is no file.

    Raises:
        InputError: it names the file and its part.
    """
    if path is not None and not Path(path).expanduser().exists():
        raise InputError(f"{what} {path}: no such file; check its path")


def check_image(path: str | Path | None, what: str) -> None:
    """The same for an image, which may also be ``FOLDER/UID`` of a DICOM series; with a valid header."""
    from ..io.dicom import is_dicom, is_series

    if path is None:
        return
    series = is_series(Path(path).expanduser())
    if not series:
        check_file(path, what)
    dicom = series or is_dicom(Path(path).expanduser())
    if not dicom or find_spec("pydicom") is not None:  # without it ITK reads these headers, which takes seconds to import
        from ..io.grids import read_grid

        read_grid(Path(path), what)


def check_any(path: Path, what: str) -> None:
    """The same for an image, a transform or the prefix of the files of ANTs."""
    from ..io.dicom import is_series

    if not (is_ants_prefix(path.expanduser()) or is_series(path.expanduser())):
        check_file(path, what)


def is_ants_prefix(path: Path) -> bool:
    """Whether a path is no file, but begins the names of files that ANTs has written."""
    return bool(path.name) and not path.exists() and any(path.with_name(path.name + end).is_file() for end in ANTS)


def check_transforms(items: Sequence[str], formats: Sequence[str] | None = None) -> None:
    """The same for a list of transforms: files, folders of ``register`` and prefixes of ANTs; and for their formats."""
    from ..io.nifti import is_nifti
    from ..io.transforms.detect import format_of_file
    from .transforms import check_formats

    for item, format in zip(items, check_formats(formats, len(items)), strict=True):
        path = parse_item(item)[0]
        if not is_ants_prefix(path):
            check_file(path, "transform")
        if format is None and path.is_file() and is_nifti(path):
            format_of_file(path)  # which refuses what can be read in several ways


def check_device(names: str | None, option: str = "--device") -> None:
    """Refuse a device whose name can be none; whether it is there is found out later.

    Raises:
        InputError: it says what devices are called.
    """
    for name in [] if names is None else names.split(","):
        if not DEVICE.fullmatch(name.strip()):
            raise InputError(f"{option} {names}: {name.strip()!r} is no device; give cpu, cuda, cuda:1 ...")
