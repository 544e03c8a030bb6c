# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""ITK and ANTs ``.mat`` files: MATLAB version 4, with two matrices per transform, its parameters and fixed parameters."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from .itk_linear import ItkTransform

__all__ = ["is_matlab", "read_matlab", "write_matlab_affine"]

_HEAD = struct.Struct("<5i")  # type, rows, columns, complex flag, length of the name
_LONGEST_NAME = 128


def is_matlab(start: bytes) -> bool:
    """Whether a file with these first bytes is a MATLAB version 4 file."""
    if len(start) < _HEAD.size:
        return False
    return any(_known(*struct.unpack_from(f"{order}5i", start)) for order in "<>")


def _known(kind: int, rows: int, columns: int, imaginary: int, length: int) -> bool:
    # digits of the type: 1 for big-endian; 1 for row-major, as VNL writes; 1 for single precision; 0 for numeric
    sound = rows >= 0 and columns >= 0 and imaginary == 0 and 1 < length <= _LONGEST_NAME
    return sound and kind in (0, 10, 100, 110, 1000, 1010, 1100, 1110)


def read_matlab(path: Path) -> list[ItkTransform]:
    """The transforms in a file.

    Raises:
        ValueError: if it is not a MATLAB version 4 file of transforms, or is damaged.
    """
    content, start, found = path.read_bytes(), 0, []
    while start < len(content):
        name, values, start = _matrix(content, start)
        found.append((name, values))
    if not found or len(found) % 2 or any(name != "fixed" for name, _ in found[1::2]):
        raise ValueError(f"holds {', '.join(name for name, _ in found) or 'nothing'}, which is not a transform of ITK")
    if any(kind.startswith("Composite") for kind, _ in found[::2]):
        raise ValueError("holds a composite without its parts, which ITK does not write to .mat")
    return [ItkTransform.of(kind, values, fixed) for (kind, values), (_, fixed) in zip(found[::2], found[1::2], strict=True)]


def _matrix(content: bytes, start: int) -> tuple[str, np.ndarray, int]:
    """Name and values of the matrix at an offset, and the offset of the next one."""
    if not is_matlab(content[start : start + _HEAD.size]):
        raise ValueError("is not a complete MATLAB file of version 4 as ITK and ANTs write")
    order = "<" if _known(*_HEAD.unpack_from(content, start)) else ">"
    kind, rows, columns, _, length = struct.unpack_from(f"{order}5i", content, start)
    dtype = np.dtype(f"{order}f{4 if kind % 100 else 8}")
    first = start + _HEAD.size + length
    end = first + rows * columns * dtype.itemsize
    if end > len(content):
        raise ValueError("ends too early")
    name = content[start + _HEAD.size : first].split(b"\0")[0].decode("latin-1")
    return name, np.frombuffer(content, dtype, rows * columns, first).astype(np.float64), end


def write_matlab_affine(path: Path, lps: np.ndarray) -> None:
    """Write an affine map ``(D + 1, D + 1)``, LPS mm, as ITK does, with its center at the origin."""
    dims = len(lps) - 1
    numbers = np.append(lps[:dims, :dims].ravel(), lps[:dims, dims])
    parts = ((f"AffineTransform_double_{dims}_{dims}", numbers), ("fixed", np.zeros(dims)))
    path.write_bytes(b"".join(_packed(name, values) for name, values in parts))


def _packed(name: str, values: np.ndarray) -> bytes:
    label = name.encode("ascii") + b"\0"
    return _HEAD.pack(0, len(values), 1, 0, len(label)) + label + values.astype("<f8").tobytes()
