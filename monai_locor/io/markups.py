# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Text formats of 3D Slicer points, fiducials ``.fcsv`` and markups ``.json``, and of comma-separated values."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, one_line
from .lps import lps_signs

__all__ = ["fcsv_text", "finite_point", "from_fcsv", "from_markups", "markups_text", "rows_of", "table_text"]

logger = logging.getLogger(__name__)

_FCSV_COLUMNS = ("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID")
_SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.0.json#"
)
_RAS = {"RAS": True, "0": True, "LPS": False, "1": False}  # digits: Slicer before 4.11


def rows_of(text: str, name: str) -> list[tuple[int, list[str]]]:
    """Nonempty rows of comma-separated text, with their line numbers."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""))
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{name}: cannot be read ({one_line(error)}); is it a CSV file?") from error


def table_text(rows: Sequence[Sequence[object]]) -> str:
    """Rows as comma-separated text."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def finite_point(row: Sequence[Any], columns: Sequence[int], where: str, shown: str) -> list[float]:
    """The coordinates in the given columns of a row.

    Args:
        where: file name and line, for the message.
        shown: the row as text, for the message.

    Raises:
        InputError: if one is missing, not a number or not finite.
    """
    try:
        values = [float(row[column]) for column in columns]
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise InputError(f"{where}: is {shown[:50]!r}; give a finite number for each axis, in mm")
    return values


def from_fcsv(text: str, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Points ``(N, 3)``, RAS mm, and labels of a fiducial list.

    Raises:
        InputError: if it has no points, or an unknown coordinate system.
    """
    columns, system = list(_FCSV_COLUMNS), "RAS"  # default of old files without a CoordinateSystem line
    for line in (line[1:] for line in text.splitlines() if line.startswith("#")):
        key, _, value = (part.strip() for part in line.partition("="))
        if key == "CoordinateSystem":
            system = value.rstrip(",")
        elif key == "columns":
            columns = [cell.strip() for cell in value.split(",")]
    rows = [(n, row) for n, row in rows_of(text, name) if not row[0].startswith("#")]
    if not rows or any(axis not in columns for axis in "xyz"):
        raise InputError(f"{name}: holds no points; is it a list of fiducials of Slicer?")
    where = [columns.index(axis) for axis in "xyz"]
    points = [finite_point(row, where, f"{name}, line {n}", ",".join(row)) for n, row in rows]
    named = columns.index("label") if "label" in columns else len(columns)
    labels = tuple(row[named].strip() if named < len(row) else "" for _, row in rows)
    return _to_ras(points, system, name), labels


def _to_ras(points: list[list[float]], system: str, name: str) -> np.ndarray:
    if system not in _RAS:
        raise InputError(f"{name}: its coordinate system is {system!r}; save it from Slicer as LPS or RAS")
    return np.array(points, dtype=np.float64).reshape(-1, 3) * (1 if _RAS[system] else lps_signs(3))


def from_markups(text: str, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Points ``(N, 3)``, RAS mm, and labels of all placed control points of a markups file.

    Raises:
        InputError: see :func:`from_fcsv`.
    """
    try:
        lists = json.loads(text)["markups"]
        groups = [(str(group.get("coordinateSystem", "LPS")), group["controlPoints"]) for group in lists]
        found = [(system, _defined(points)) for system, points in groups]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{name}: is not a list of Slicer markups ({one_line(error)}); save it from Slicer again") from error
    parts, labels = [], []
    for system, points in found:
        places = [p["position"] for p in points]
        values = [finite_point(place, range(3), f"{name}, point {n}", str(place)) for n, place in enumerate(places, 1)]
        parts.append(_to_ras(values, system, name))
        labels += [str(p.get("label", "")) for p in points]
    if not labels:
        raise InputError(f"{name}: holds no points that are placed; place them in Slicer first")
    return np.concatenate(parts), tuple(labels)


def _defined(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    placed = [p for p in points if p.get("positionStatus", "defined") in ("defined", "edit") and p.get("position") is not None]
    if len(placed) < len(points):
        logger.warning("%d of %d control points are not placed and left out", len(points) - len(placed), len(points))
    return placed


def fcsv_text(values: list[list[float]], labels: Sequence[str], descriptions: Sequence[str] | None = None) -> str:
    """Fiducial list (``.fcsv``) of points in LPS."""
    head = "# Markups fiducial file version = 4.13\n# CoordinateSystem = LPS\n# columns = " + ",".join(_FCSV_COLUMNS) + "\n"
    rows = enumerate(zip(values, _names(labels), descriptions or [""] * len(labels), strict=True), 1)
    return head + table_text([[n, *v, 0, 0, 0, 1, 1, 1, 0, name, text, ""] for n, (v, name, text) in rows])


def _names(labels: Sequence[str]) -> list[str]:
    return [label or f"P-{n}" for n, label in enumerate(labels, 1)]


def markups_text(values: list[list[float]], labels: Sequence[str], descriptions: Sequence[str] | None = None) -> str:
    """Markups (``.json``) of points in LPS."""
    points = [
        {"id": str(n), "label": name, "position": v, "selected": True, "locked": False, "visibility": True}
        | ({"description": text} if text else {})
        for n, (v, name, text) in enumerate(zip(values, _names(labels), descriptions or [""] * len(labels), strict=True), 1)
    ]
    node = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    return json.dumps({"@schema": _SCHEMA, "markups": [node]}, indent=1) + "\n"
