# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""What is known of an image beside its voxels: label maps and landmarks."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from os import PathLike

import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..io import ImageSource
from ..io.sources import load_source, one_line

__all__ = ["read_label", "read_landmarks"]


def read_label(source: ImageSource, role: str = "fixed") -> MetaTensor:
    """Read a label map.

    Args:
        source: a file, or a label map in memory ``(1, *spatial)``.
        role: ``"fixed"`` or ``"moving"``, for messages.

    Returns:
        ``(1, *spatial)`` float32, whole numbers, with a 4x4 affine (RAS, mm).

    Raises:
        InputError: when it cannot be read or a value is no whole number.
    """
    name, label = load_source(source, f"{role} label")
    data = label.as_tensor()
    wrong = data[~data.isfinite() | (data != data.round())]
    if len(wrong):
        raise InputError(f"{name}: holds the value {float(wrong[0]):g}; labels are whole numbers, is it a label map?")
    return label


def read_landmarks(path: str | PathLike[str], role: str = "fixed") -> torch.Tensor:
    """Read points from a CSV file with the header ``x,y,z`` (``x,y`` in 2-D); other columns are ignored.

    Args:
        path: of the file.
        role: ``"fixed"`` or ``"moving"``, for messages.

    Returns:
        ``(N, D)`` float64, world RAS mm.

    Raises:
        InputError: when the file cannot be read, or a line does not hold D finite numbers.
    """
    name = f"{role} landmarks {path}"
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{name}: cannot be read ({one_line(error)}); is it a CSV file?") from error
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    axes = [axis for axis in "xyz" if axis in header]
    if axes not in (["x", "y"], ["x", "y", "z"]) or len(rows) < 2:
        first = ",".join(rows[0][1])[:50] if rows else ""
        raise InputError(f"{name}: {len(rows)} lines, the first {first!r}; give the header x,y,z and at least one point")
    columns = [header.index(axis) for axis in axes]
    return torch.tensor([_point(row, columns, f"{name}, line {n}") for n, row in rows[1:]], dtype=torch.float64)


def _point(row: Sequence[str], columns: Sequence[int], where: str) -> list[float]:
    try:
        values = [float(row[column]) for column in columns]
    except (IndexError, ValueError):
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise InputError(f"{where}: is {','.join(row)[:50]!r}; give a finite number for each axis, world RAS mm")
    return values
