# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The summary of a cohort as one HTML page that works offline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from .._version import __version__
from ..io.paths import atomic_path
from ..report.html.assets import asset
from .folder import CohortFolder
from .summary import COLUMNS

__all__ = ["write_page"]

LEVELS = ("FAILED", "FAIL", "WARN", "PASS", "WAITING")  # the worst first
NUMBERS = {  # columns of numbers: heading
    "seconds": "time, s",
    "mean_displacement_mm": "mean shift, mm",
    "max_displacement_mm": "largest shift, mm",
    "folding_percent": "folding, %",
    "nmi_before": "NMI before",
    "nmi_after": "NMI after",
    "dice_before": "Dice before",
    "dice_after": "Dice after",
    "landmarks_before_mm": "landmarks before, mm",
    "landmarks_after_mm": "landmarks after, mm",
    "driving_dice_before": "Dice of driving labels before",
    "driving_dice_after": "Dice of driving labels after",
}
OPTIONAL_COLUMNS = tuple(name for name in NUMBERS if "dice" in name or "landmarks" in name)  # shown if a pair has a value


def write_page(folder: CohortFolder, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``summary.html``: a table of all pairs with thumbnails, to sort and to filter.

    It asks nothing of the network. Thumbnails are part of it; the reports of the pairs are linked.

    Args:
        folder: output folder of the cohort.
        rows: see :func:`.summary.summary_row`.

    Returns:
        the file, which appears only when it is complete.
    """
    shown = {n: t for n, t in NUMBERS.items() if n not in OPTIONAL_COLUMNS or any(row[n] != "" for row in rows)}
    levels = [_level(row) for row in rows]
    values = {
        "title": escape(folder.root.name),
        "facts": escape(f"{len(rows)} pairs · {folder.root}"),
        "filters": "".join(_filter(level, levels.count(level)) for level in LEVELS if level in levels),
        "head": "".join(_heading(name, text) for name, text in {"id": "pair", "verdict": "verdict", **shown}.items()),
        "rows": "\n".join(_row(folder, row, level, shown) for row, level in zip(rows, levels, strict=True)),
        "numbers": str(len(shown)),
        "version": __version__,
        "style": asset("report.css") + _asset("page.css"),
        "script": _asset("page.js"),
    }
    target = folder.page
    with atomic_path(target) as temporary:
        temporary.write_text(Template(_asset("page.html")).substitute(values), encoding="utf-8", errors="backslashreplace")
    return target


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _level(row: Mapping[str, Any]) -> str:
    return str(row["verdict"] or row["state"]).upper()


def _filter(level: str, count: int) -> str:
    return (
        f'<label class="switch"><input type="checkbox" value="{level}" checked> '
        f'<span class="level {level}">{level}</span> <output>{count}</output></label>'
    )


def _heading(name: str, text: str) -> str:
    button = f'<button type="button">{escape(text)}</button>'
    about = escape(COLUMNS[name])
    return f'<th scope="col" data-column="{name}" title="{about}">{button}</th>'


def _row(folder: CohortFolder, row: Mapping[str, Any], level: str, shown: Mapping[str, str]) -> str:
    name = str(row["id"])
    about = escape(str(row["error"] or row["reasons"]))
    files_of_pair = escape(f"{row['moving']} to {row['fixed']}")
    label = escape(name)
    place = folder.pair(name) if row["state"] == "done" else None  # a failed pair may have results of an earlier run
    if place is not None and (place / "report.html").is_file():
        label = f'<a href="pairs/{quote(name)}/report.html">{label}</a>'
    order = LEVELS.index(level) if level in LEVELS else len(LEVELS)
    numbers = "".join(f'<td class="number" data-value="{_number(row[key])}">{_number(row[key])}</td>' for key in shown)
    return (
        f'<tr data-level="{level}"><td>{"" if place is None else _picture(place / "thumbnail.jpg")}</td>'
        f'<td data-value="{escape(name)}" title="{files_of_pair}">{label}</td>'
        f'<td data-value="{order}"><span class="level {level}">{level}</span><small>{about}</small></td>{numbers}</tr>'
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _picture(path: Path) -> str:
    """A thumbnail as part of the page; empty if there is none."""
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="fixed and warped image" loading="lazy" decoding="async" src="data:image/jpeg;base64,{data}">'
