# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Point files: CSV, ANTs' CSV, and fiducials and markups of 3D Slicer.

In memory, points are RAS mm. Points are mapped in the opposite direction to images: a transform that resamples the moving
image to the fixed grid maps points of the fixed image to points of the moving image.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, one_line
from ..geometry import Grid, apply_affine
from .lps import lps_signs
from .markups import fcsv_text, finite_point, from_fcsv, from_markups, markups_text, rows_of, table_text
from .paths import atomic_path, expanded

if TYPE_CHECKING:
    import torch

__all__ = ["PointList", "load_points", "matching_order", "read_points", "write_points"]

logger = logging.getLogger(__name__)

_LARGEST = 2**28  # bytes


@dataclass(frozen=True)
class PointList:
    """Points and their labels.

    Args:
        points: ``(N, D)``, RAS mm; converted to float64.
        labels: one label per point; empty strings if not given.

    Raises:
        ValueError: if the shape is wrong or the numbers of points and labels differ.
    """

    points: torch.Tensor
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from ..tensors import as_tensor

        points = as_tensor(self.points).double()
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise ValueError(f"points must be (N, 2) or (N, 3), got {tuple(points.shape)}")
        labels = tuple(self.labels) or ("",) * len(points)
        if len(labels) != len(points):
            raise ValueError(f"{len(points)} points cannot have {len(labels)} labels")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.points)


def matching_order(fixed: Sequence[str], moving: Sequence[str]) -> list[int] | None:
    """Index of the moving point with the label of each fixed point; None if the labels do not identify the points."""
    unique = len(set(fixed)) == len(fixed) and all(fixed)
    if not unique or len(fixed) != len(moving) or set(fixed) != set(moving):
        return None
    return [moving.index(label) for label in fixed]


def read_points(
    path: str | os.PathLike[str], *, lps: bool = False, what: str = "points", pixels_of: Grid | None = None
) -> PointList:
    """Read points from ``.csv``, Slicer's ``.fcsv`` or Slicer's markups ``.json`` (``.mrk.json``).

    Args:
        path: the file. CSV files have the columns ``x,y,z`` (``x,y`` in 2-D) and optionally ``label``; a first column without
            a name also holds labels. Other columns are ignored.
        lps: whether the coordinates of a CSV file are LPS, as in ANTs, instead of RAS. Slicer's files state it themselves.
        what: role of the points, for messages.
        pixels_of: grid of an image: the coordinates of a CSV file are indices of its voxels along the array axes, for a
            picture pixels from the left (x) and from the top (y), with the center of the first one at 0.

    Raises:
        InputError: if the file cannot be read, has no points, or a point does not have D finite coordinates.
    """
    import torch

    points, labels = load_points(path, lps=lps, what=what, pixels_of=pixels_of)
    return PointList(torch.from_numpy(points), labels)


def load_points(
    path: str | os.PathLike[str], *, lps: bool = False, what: str = "points", pixels_of: Grid | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """:func:`read_points` without torch: points ``(N, D)`` float64, RAS mm, and one label per point."""
    name = f"{what} {os.fspath(path)}"
    file = expanded(path, name)
    text = _text(file, name)
    suffix = file.suffix.lower()
    if pixels_of is not None and suffix == ".csv":
        return _from_pixels(*_from_csv(text, name, False), pixels_of, name)
    if suffix == ".json":
        return from_markups(text, name)
    return from_fcsv(text, name) if suffix == ".fcsv" else _from_csv(text, name, lps)


def _from_pixels(values: np.ndarray, labels: tuple[str, ...], grid: Grid, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert pixels of a grid to RAS mm."""
    if values.shape[1] != grid.dims:
        raise InputError(f"{name}: has {values.shape[1]} coordinates, but its image {grid.dims} axes; give points of the image")
    return apply_affine(grid.affine, values), labels


def _text(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read ({one_line(error)}); is it a text file with points?") from error


def _from_csv(text: str, name: str, lps: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    rows = rows_of(text, name)
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    axes = [axis for axis in "xyz" if axis in header]
    if axes not in (["x", "y"], ["x", "y", "z"]) or len(rows) < 2:
        first = ",".join(rows[0][1])[:50] if rows else ""
        raise InputError(f"{name}: {len(rows)} lines, the first {first!r}; give the header x,y,z and at least one point")
    if "t" in header and not lps:
        logger.warning("%s: has a column t, as ANTs writes it, and is read as RAS; ANTs' points are LPS", name)
    columns = [header.index(axis) for axis in axes]
    names = [n for n, cell in enumerate(header) if cell == "label"] + [0] * (header[0] == "")
    named = (names or [len(max(rows, key=lambda row: len(row[1]))[1])])[0]
    points = [finite_point([*row, *[""] * 9], columns, f"{name}, line {n}", ",".join(row)) for n, row in rows[1:]]
    labels = tuple(row[named].strip() if named < len(row) else "" for _, row in rows[1:])
    return np.array(points, dtype=np.float64) * (lps_signs(len(axes)) if lps else 1), labels


def write_points(
    path: str | os.PathLike[str],
    points: PointList,
    *,
    lps: bool = False,
    pixels_of: Grid | None = None,
    columns: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write points in the format given by the suffix, see :func:`read_points`.

    Args:
        path: output file, written atomically.
        points: points in RAS mm, which must be 3-D for Slicer's formats.
        lps: write ANTs' CSV: LPS, columns ``x,y,z,t,label``. Labels are integers there; if any label is not, the points are
            numbered from 1.
        pixels_of: write a CSV file of pixels of this grid, see :func:`read_points`.
        columns: further numbers of each point by name. They are columns of a CSV file, empty for NaN, and the description of a
            point in Slicer's formats. They are left out of ANTs' CSV, whose columns are fixed.

    Raises:
        InputError: if the suffix is not supported, or 2-D points are written in a format of Slicer.
        ValueError: if the points are not finite.
    """
    file = expanded(path, f"output file {os.fspath(path)}")
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".fcsv", ".json"):
        raise InputError(f"output file {os.fspath(path)}: points are written as .csv, .fcsv or .mrk.json; name one of them")
    given = points.points.detach().cpu().numpy()
    if pixels_of is not None and suffix == ".csv":
        given = apply_affine(np.linalg.inv(pixels_of.affine), given)
    if not np.isfinite(given).all():
        raise ValueError("points that are written must be finite")
    dims = given.shape[1]
    if suffix != ".csv" and dims != 3:
        raise InputError(f"output file {os.fspath(path)}: Slicer's points have three dimensions, these have two; write .csv")
    signs = np.ones(dims) if suffix == ".csv" and (pixels_of is not None or not lps) else lps_signs(dims)
    values = (given * signs).tolist()
    if suffix == ".csv":
        text = _ants_text(values, points.labels) if lps else _csv_text(values, points.labels, columns or {})
    else:
        text = (fcsv_text if suffix == ".fcsv" else markups_text)(
            values, points.labels, _descriptions(columns or {}, len(values))
        )
    try:
        with atomic_path(file) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(
            f"output file {os.fspath(path)}: cannot be written ({error.strerror}); choose another location"
        ) from error


def _csv_text(values: list[list[float]], labels: Sequence[str], columns: Mapping[str, Sequence[float]]) -> str:
    head = ["x", "y", "z"][: len(values[0]) if values else 3]
    rows: list[list[object]] = [[*v] for v in values]
    if any(labels):
        head, rows = [*head, "label"], [[*row, label] for row, label in zip(rows, labels)]
    for name, numbers in columns.items():
        head, rows = [*head, name], [[*row, _rounded(number)] for row, number in zip(rows, numbers)]
    return table_text([head, *rows])


def _rounded(number: float) -> str:
    return f"{number:.3g}" if math.isfinite(number) else ""


def _descriptions(columns: Mapping[str, Sequence[float]], count: int) -> list[str]:
    """The further numbers of each point as text."""
    parts = [
        [f"{name} {_rounded(number)}" if math.isfinite(number) else "" for number in numbers]
        for name, numbers in columns.items()
    ]
    return [", ".join(filter(None, texts)) for texts in zip(*parts)] if parts else [""] * count


def _ants_text(values: list[list[float]], labels: Sequence[str]) -> str:
    known = all(label.removeprefix("-").isdecimal() for label in labels)
    numbers = [int(label) if known else n for n, label in enumerate(labels, 1)]
    # ANTs also writes z in 2-D
    return table_text([["x", "y", "z", "t", "label"], *([*v, *[0] * (4 - len(v)), n] for v, n in zip(values, numbers))])
