# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The description of a transform format, and checks shared by all readers and writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...errors import InputError, one_line
from ...geometry import Grid, SpatialTransform

__all__ = [
    "Format",
    "HeaderWriter",
    "Reader",
    "Writer",
    "check_grid",
    "domain_of",
    "homogeneous",
    "invalid",
    "matrix_of",
    "read_matrix_text",
    "undecided",
]

_ROUNDED = 1e-5  # tolerance of the last row of a matrix, for files in single precision or with few digits

#: arguments: file, its name in messages, fixed grid, moving grid
Reader: TypeAlias = Callable[[Path, str, "Grid | None", "Grid | None"], SpatialTransform]
#: arguments: file, its name in messages, transform, fixed grid, moving grid; returns the files written
Writer: TypeAlias = Callable[[Path, str, SpatialTransform, "Grid | None", "Grid | None"], "list[Path]"]
#: like a writer, with the images themselves instead of their grids
HeaderWriter: TypeAlias = Callable[[Path, str, SpatialTransform, Any, Any], "list[Path]"]


def _itself(path: Path) -> list[Path]:
    return [path]


@dataclass(frozen=True)
class Format:
    """A transform file format.

    Attributes:
        name: value of the ``format`` argument.
        description: one line for the format table.
        recognized: how its files are detected; empty if the format must be named.
        suffixes: file name suffixes; the first is the usual one.
        reader: None if the format cannot be read.
        writer: None if the format cannot be written, or by the header writer only.
        header_writer: writer that needs the headers of both images, as for DICOM.
        needs_to_read: grids required for reading, ``"fixed"`` or ``"moving"``.
        needs_to_write: grids required for writing; an optional fixed grid is not listed.
        affine_only: True if it stores affine maps only.
        files: returns the files that writing to a path may create or replace.
    """

    name: str
    description: str
    recognized: str
    suffixes: tuple[str, ...]
    reader: Reader | None = None
    writer: Writer | None = None
    header_writer: HeaderWriter | None = field(default=None, kw_only=True)
    needs_to_read: tuple[str, ...] = ()
    needs_to_write: tuple[str, ...] = ()
    affine_only: bool = False
    files: Callable[[Path], list[Path]] = _itself

    @property
    def reads(self) -> bool:
        """Whether the format can be read."""
        return self.reader is not None

    @property
    def writes(self) -> bool:
        """Whether the format can be written."""
        return self.writer is not None or self.header_writer is not None


@contextmanager
def invalid(name: str, remedy: str) -> Iterator[None]:
    """Convert an exception raised while parsing a file into a one-line InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # readers do not catch the exceptions of their libraries
        raise InputError(f"{name}: {one_line(error)}; {remedy}") from error


def undecided(name: str, what: str, readings: dict[str, str]) -> InputError:
    """Return the error for a file with an ambiguous format; it lists the candidate formats."""
    listed = ", ".join(f"{kind} ({meaning})" for kind, meaning in readings.items())
    how = "--from (of register --initial-from, in Python format=)"
    return InputError(f"{name}: holds {what} and does not say which; name its format with {how}: {listed}")


def domain_of(transform: SpatialTransform, fixed: Grid | None, name: str) -> Grid:
    """Return the grid on which to sample a transform: the fixed grid, or the grid of its first deformation.

    Raises:
        InputError: if there is neither.
    """
    grid = transform.domain if fixed is None else fixed
    if grid is None:
        raise InputError(f"{name}: an affine map has no grid of its own to write a field on; give the fixed image")
    return grid


def check_grid(grid: Grid | None, role: str, name: str) -> Grid:
    """Return a grid that a format requires.

    Raises:
        InputError: if it is None.
    """
    if grid is None:
        raise InputError(f"{name}: its coordinates are in voxels of the {role} image; give that image as well")
    return grid


def matrix_of(transform: SpatialTransform, name: str) -> np.ndarray:
    """Return the matrix of an affine transform, ``(D + 1, D + 1)``, RAS mm.

    Raises:
        InputError: if the transform is not affine.
    """
    if not transform.is_affine:
        raise InputError(f"{name}: holds affine maps only, and this transform has a deformation; write .h5 or .nii.gz instead")
    return transform.matrix


def homogeneous(matrix: np.ndarray, name: str) -> np.ndarray:
    """Set the last row of a matrix to exactly 0 ... 0 1; files store it with the rounding of single precision.

    Raises:
        InputError: if the last row differs by more than rounding.
    """
    row = np.eye(len(matrix))[-1]
    if not np.abs(matrix[-1] - row).max() < _ROUNDED:
        raise InputError(f"{name}: the last row of its matrix is {matrix[-1].tolist()} instead of 0 ... 0 1; compute it again")
    return np.vstack((matrix[:-1], row))


def read_matrix_text(path: Path, name: str) -> np.ndarray:
    """Read four lines of four numbers, ``(4, 4)``.

    Raises:
        InputError: if the file has any other content.
    """
    with invalid(name, "it should hold four lines of four numbers"):
        matrix = np.loadtxt(path, ndmin=2, max_rows=5)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{name}: holds {matrix.shape} numbers; it should hold four lines of four finite numbers")
    return homogeneous(matrix, name)
