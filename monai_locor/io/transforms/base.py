# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The description of a transform format, and checks shared by all readers and writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ...errors import InputError, one_line
from ...geometry import Grid, SpatialTransform

__all__ = [
    "Format",
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

_ROUNDED = 1e-5  # by which the last row of a matrix may be off: single precision, or few digits

#: file, its name for messages, fixed grid, moving grid
Reader: TypeAlias = Callable[[Path, str, "Grid | None", "Grid | None"], SpatialTransform]
#: file, its name for messages, transform, fixed grid, moving grid; gives the files it wrote
Writer: TypeAlias = Callable[[Path, str, SpatialTransform, "Grid | None", "Grid | None"], "list[Path]"]


def _itself(path: Path) -> list[Path]:
    return [path]


@dataclass(frozen=True)
class Format:
    """One kind of transform file.

    Attributes:
        name: for the ``format`` argument.
        description: one line for people.
        recognized: how its files are told from others; empty where they are not, and the format must be named.
        suffixes: that its files have; the first is the usual one.
        reader: None where it cannot be read.
        writer: None where it cannot be written.
        needs_to_read: grids that must be given, ``"fixed"`` or ``"moving"``.
        needs_to_write: the same; a fixed grid that is only useful is not named.
        affine_only: whether it holds nothing but affine maps.
        files: the files that writing to a path may make or replace.
    """

    name: str
    description: str
    recognized: str
    suffixes: tuple[str, ...]
    reader: Reader | None = None
    writer: Writer | None = None
    needs_to_read: tuple[str, ...] = ()
    needs_to_write: tuple[str, ...] = ()
    affine_only: bool = False
    files: Callable[[Path], list[Path]] = _itself

    @property
    def reads(self) -> bool:
        """Whether it can be read."""
        return self.reader is not None

    @property
    def writes(self) -> bool:
        """Whether it can be written."""
        return self.writer is not None


@contextmanager
def invalid(name: str, remedy: str) -> Iterator[None]:
    """Say of a file in one line what went wrong with its content."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # readers pass on the exceptions of their libraries
        raise InputError(f"{name}: {one_line(error)}; {remedy}") from error


def undecided(name: str, what: str, readings: dict[str, str]) -> InputError:
    """The refusal of a file that can be read in several ways, with what each is called."""
    listed = ", ".join(f"{kind} ({meaning})" for kind, meaning in readings.items())
    how = "--from (of register --initial-from, in Python format=)"
    return InputError(f"{name}: holds {what} and does not say which; name its format with {how}: {listed}")


def domain_of(transform: SpatialTransform, fixed: Grid | None, name: str) -> Grid:
    """The grid to sample a transform on: the fixed grid, or else the one its first deformation has.

    Raises:
        InputError: when there is none.
    """
    grid = transform.domain if fixed is None else fixed
    if grid is None:
        raise InputError(f"{name}: an affine map has no grid of its own to write a field on; give the fixed image")
    return grid


def check_grid(grid: Grid | None, role: str, name: str) -> Grid:
    """A grid that a format cannot do without.

    Raises:
        InputError: when it is None.
    """
    if grid is None:
        raise InputError(f"{name}: its coordinates are in voxels of the {role} image; give that image as well")
    return grid


def matrix_of(transform: SpatialTransform, name: str) -> np.ndarray:
    """The matrix of an affine transform, ``(D + 1, D + 1)``, RAS mm.

    Raises:
        InputError: when there is more to it than an affine map.
    """
    if not transform.is_affine:
        raise InputError(f"{name}: holds affine maps only, and this transform has a deformation; write .h5 or .nii.gz instead")
    return transform.matrix


def homogeneous(matrix: np.ndarray, name: str) -> np.ndarray:
    """A matrix whose last row is 0 ... 0 1, which files have up to the rounding of single precision.

    Raises:
        InputError: when it is another row.
    """
    row = np.eye(len(matrix))[-1]
    if not np.abs(matrix[-1] - row).max() < _ROUNDED:
        raise InputError(f"{name}: the last row of its matrix is {matrix[-1].tolist()} instead of 0 ... 0 1; compute it again")
    return np.vstack((matrix[:-1], row))


def read_matrix_text(path: Path, name: str) -> np.ndarray:
    """A file of four lines of four numbers, ``(4, 4)``.

    Raises:
        InputError: when it is something else.
    """
    with invalid(name, "it should hold four lines of four numbers"):
        matrix = np.loadtxt(path, ndmin=2, max_rows=5)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{name}: holds {matrix.shape} numbers; it should hold four lines of four finite numbers")
    return homogeneous(matrix, name)
