# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading and writing transforms of any format."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, one_line
from ...geometry import Grid, SpatialTransform
from ..grids import as_grid
from ..paths import expanded
from .base import Format, invalid
from .chain import ChainItem, chain_transforms
from .detect import format_of_file, format_of_name
from .formats import FORMATS
from .nifti_vectors import check_reading
from .output_folder import folder_of, read_folder

if TYPE_CHECKING:
    from ..image_source import ImageSource

__all__ = ["formats_of", "planned_files", "read_transform", "read_transforms", "write_transform"]


def read_transform(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    fixed: Grid | ImageSource | None = None,
    moving: Grid | ImageSource | None = None,
) -> SpatialTransform:
    """Read a transform.

    Args:
        path: a file, the prefix of an ANTs registration, or the output folder of ``register``, from which the first
            available of forward (and inverse) field, ``transform.h5``, ANTs files, inverse field, ``affine.tfm`` is read.
        format: format of a file, a name in :data:`FORMATS`; detected from name and content if not given. Ambiguous files
            raise an error that lists the formats to choose from.
        fixed: the fixed image or its grid, for formats in voxel coordinates.
        moving: the moving image or its grid.

    Returns:
        the map from points of the fixed to points of the moving image, with its inverse if the files contain it.

    Raises:
        InputError: if the file is missing, unreadable, of another format or ambiguous, if the transform is singular or not
            finite or differs from the images in its number of dimensions, or if the format needs a grid that is not given.
    """
    return _read(path, format, as_grid(fixed, "fixed image"), as_grid(moving, "moving image"))


def _read(path: str | os.PathLike[str], format: str | None, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    name = f"transform {os.fspath(path)}"
    file = expanded(path, name)
    folder = folder_of(file)
    if folder is not None and format != "ants":
        with invalid(name, "register again"):
            transform = read_folder(folder, name, fixed, moving)
            _same_dims(transform, name, fixed, moving)
            return transform
    kind = FORMATS[format_of_file(file, fixed, moving)] if format is None else _format(format)
    if kind.reader is None:
        raise InputError(f"{name}: the format {kind.name} can be written only; give another file")
    if kind.suffixes and not file.is_file():
        raise InputError(f"{name}: no such file; check its path")
    _check_needs(kind.needs_to_read, kind, name, fixed, moving)
    with invalid(name, f"is it complete, and of the format {kind.name}?"):
        transform = kind.reader(file, name, fixed, moving)
        if format is None and kind.name in ("nifti", "vector"):
            transform = check_reading(transform, name)
    _same_dims(transform, name, fixed, moving)
    return transform


def read_transforms(
    paths: Sequence[str | os.PathLike[str]],
    *,
    invert: Sequence[bool] | None = None,
    formats: str | Sequence[str | None] | None = None,
    fixed: Grid | ImageSource | None = None,
    moving: Grid | ImageSource | None = None,
) -> SpatialTransform:
    """Read and compose a list of transforms in the order of ``antsApplyTransforms -t``.

    Points of the fixed image are mapped by the first transform of the list first; the moving image is thus resampled by the
    last transform first.

    Args:
        paths: files, prefixes of ANTs registrations, or output folders of ``register``.
        invert: a flag for each transform, True to invert it as with ``-t [file,1]``; default: none is inverted.
        formats: one format for all, or one for each, see :func:`read_transform`.
        fixed: see :func:`read_transform`.
        moving: see :func:`read_transform`.

    Raises:
        InputError: see :func:`read_transform`; also if there are no paths or the numbers of dimensions differ.
    """
    if not paths:
        raise InputError("the list of transforms is empty; give at least one file")
    grids = as_grid(fixed, "fixed image"), as_grid(moving, "moving image")
    named = formats_of(formats, len(paths))
    items = [
        ChainItem(f"transform {os.fspath(path)}", functools.partial(_read, path, format), back)
        for path, back, format in zip(paths, invert or [False] * len(paths), named, strict=True)
    ]
    return chain_transforms(items, *grids)


def formats_of(formats: str | Sequence[str | None] | None, count: int) -> list[str | None]:
    """Expand one format, one per file, or None to a list of ``count`` formats; ``"auto"`` becomes None.

    Raises:
        InputError: if there is neither one format nor one per file.
    """
    given = [formats] if formats is None or isinstance(formats, str) else list(formats)
    if len(given) not in (1, count):
        raise InputError(f"{len(given)} formats are named for {count} transforms; name one for all, or one for each")
    named = [None if name == "auto" else name for name in given]
    return named * count if len(named) == 1 else named


def write_transform(
    path: str | os.PathLike[str],
    transform: SpatialTransform,
    *,
    format: str | None = None,
    fixed: Grid | ImageSource | None = None,
    moving: Grid | ImageSource | None = None,
) -> list[Path]:
    """Write a transform; each file is written atomically.

    Args:
        path: a file, or a prefix for the format ``ants``.
        transform: from points of the fixed to points of the moving image.
        format: a name in :data:`FORMATS`; chosen by the suffix of ``path`` if not given.
        fixed: the fixed image or its grid, on which displacement fields are written (default: the grid of the transform's
            first deformation); some formats use its voxel coordinates. For DICOM the file or folder of the image.
        moving: the moving image or its grid, for formats in voxel coordinates. For DICOM the file or folder of the image.

    Returns:
        the files written.

    Raises:
        InputError: if the format cannot store the transform or is read-only, if it needs a grid that is not given, or if the
            file cannot be written.
    """
    name = f"output file {os.fspath(path)}"
    file = expanded(path, name)
    kind = FORMATS[format_of_name(file)] if format is None else _format(format)
    if not kind.writes:
        raise InputError(f"{name}: the format {kind.name} can be read only; {_alternatives()}")
    if kind.suffixes and not file.name.lower().endswith(kind.suffixes):
        raise InputError(f"{name}: a file of the format {kind.name} must end in {' or '.join(kind.suffixes)}")
    if not file.parent.is_dir():
        raise InputError(f"{name}: the folder {file.parent} does not exist; make it first")
    grids = as_grid(fixed, "fixed image"), as_grid(moving, "moving image")
    _same_dims(transform, name, *grids)
    _check_needs(kind.needs_to_write, kind, name, *grids)
    try:
        if kind.header_writer is not None:
            return kind.header_writer(file, name, transform, fixed, moving)
        assert kind.writer is not None
        return kind.writer(file, name, transform, *grids)
    except OSError as error:
        raise InputError(f"{name}: cannot be written ({error.strerror or one_line(error)}); choose another location") from error


def planned_files(path: str | os.PathLike[str], format: str | None = None) -> list[Path]:
    """Return the files that :func:`write_transform` may create or replace."""
    file = expanded(path)
    return (FORMATS[format_of_name(file)] if format is None else _format(format)).files(file)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"there is no transform format {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _alternatives() -> str:
    return f"choose one of {', '.join(kind.name for kind in FORMATS.values() if kind.writes)}"


def _check_needs(needs: tuple[str, ...], kind: Format, name: str, fixed: Grid | None, moving: Grid | None) -> None:
    for role, grid in (("fixed", fixed), ("moving", moving)):
        if grid is None and role in needs:
            use = "refers to" if kind.header_writer is not None else "counts voxels of"
            raise InputError(f"{name}: the format {kind.name} {use} the {role} image; give that image as well")


def _same_dims(transform: SpatialTransform, name: str, *grids: Grid | None) -> None:
    for grid in grids:
        if grid is not None and grid.dims != transform.dims:
            raise InputError(f"{name}: the transform has {transform.dims} dimensions, the image {grid.dims}; they must agree")
