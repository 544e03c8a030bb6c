# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The transforms of a command line: files, their inverses, and lists of both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..io.transforms.ants_syntax import parse_item

if TYPE_CHECKING:
    from ..geometry import Grid, SpatialTransform

__all__ = ["check_formats", "files_of", "load_transforms", "size_of"]


def files_of(items: Sequence[str]) -> list[Path]:
    """The files from which a list of transforms is read, those beside the named ones included.

    Args:
        items: see :func:`load_transforms`; those that do not exist have no files.
    """
    from ..io.stored_files import stored_files
    from ..io.transforms.itk_files import itk_files
    from ..io.transforms.output_folder import MANIFEST, folder_of

    found: list[Path] = []
    for path in (parse_item(item)[0] for item in items):
        folder = folder_of(path)
        beside = itk_files(path) if folder is None else [folder / MANIFEST]  # it holds the matrix of an affine registration
        found += [*stored_files(folder or path, transform=True), *(file for file in beside if file.is_file())]
    return list(dict.fromkeys(found))


def check_formats(formats: Sequence[str] | None, count: int, option: str = "--from") -> list[str | None]:
    """The format of each of ``count`` transforms, given once or for each; None means detect it.

    Raises:
        InputError: if the number of formats is neither one nor ``count``, or one is unknown or cannot be read.
    """
    from ..io.transforms import FORMATS
    from ..io.transforms.files import formats_of

    given = list(formats or ["auto"])
    if len(given) not in (1, count):
        raise InputError(f"{option} {' '.join(given)}: {len(given)} formats for {count} transforms; give one, or one for each")
    known = [name for name, kind in FORMATS.items() if kind.reads]
    for name in given:
        if name != "auto" and name not in known:
            raise InputError(f"{option} {name}: not a transform format; choose one of {', '.join(known)}")
    return formats_of(given, count)


def load_transforms(
    items: Sequence[str],
    *,
    inverse: bool = False,
    fixed: Grid | None = None,
    moving: Grid | None = None,
    formats: Sequence[str] | None = None,
) -> SpatialTransform:
    """Read and compose a list of transforms.

    Args:
        items: ``FILE``, ``[FILE,0]`` or ``[FILE,1]``, where the last is the inverse; or an output folder of ``register``. In
            the order of antsApplyTransforms: points go through the first one first.
        inverse: return the inverse of the composition.
        fixed: grid of the image whose points the result maps, for formats and inverses that need it; with ``inverse`` that
            of the moving image.
        moving: grid of the image to which the points are mapped, likewise.
        formats: one for all files or one for each; None and ``auto`` detect it by name and content.

    Raises:
        InputError: if a file cannot be read or the transforms differ in dimension.
    """
    from ..io.transforms.chain import ChainItem, chain_transforms

    if not items:
        raise InputError("no transform given; name one or more files with -t")
    if inverse:
        fixed, moving = moving, fixed
    found = []
    for item, format in zip(items, check_formats(formats, len(items)), strict=True):
        path, back = parse_item(item)
        found.append(ChainItem(f"transform {path}", partial(_read, path, format), back))
    whole = chain_transforms(found, fixed, moving, inverse_grid=fixed)
    return whole.inverse(moving if _fits(moving, whole) else None) if inverse else whole


def _read(path: Path, format: str | None, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    from ..io.transforms import read_transform

    return read_transform(path, format=format, fixed=fixed, moving=moving)


def _fits(grid: Grid | None, transform: SpatialTransform) -> bool:
    return grid is not None and grid.dims == transform.dims


def size_of(grid: Grid) -> str:
    """A grid as text, such as ``91x109x91 voxels of 2x2x2 mm``."""
    return "x".join(map(str, grid.shape)) + " voxels of " + "x".join(f"{s:.3g}" for s in grid.spacing) + " mm"
