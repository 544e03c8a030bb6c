# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tables of runs: medians over repeats, Markdown.

A run is a mapping with `case`, `tool`, `preset`, `seed`, `problem` (empty when all went well) and numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _peers import MISSING

COLUMNS = (  # heading, key of a run, format
    ("TRE before, mm", "tre_before_mm", ".2f"),
    ("TRE mean, mm", "tre_mm", ".3f"),
    ("TRE 95 %, mm", "tre_p95_mm", ".3f"),
    ("Dice before", "dice_before", ".3f"),
    ("Dice", "dice", ".3f"),
    ("HD 95 %, mm", "hd95_mm", ".2f"),
    ("folding, voxels", "folding_voxels", "g"),
    ("inverse 95 %, voxels", "inverse_p95_vox", ".3f"),
    ("seconds", "seconds", ".1f"),
    ("CPU seconds", "processor_seconds", ".1f"),
    ("peak, MiB", "memory_mib", ".0f"),
)
Columns = Sequence[tuple[str, str, str]]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of cells."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def cells(row: Mapping[str, Any], columns: Columns) -> list[str]:
    """Formatted numbers; empty if the case lacks the measure; the problem of a failed run in the first cell."""
    if row["problem"]:
        failed = "" if row["problem"].startswith(MISSING) else "failed: "
        return [failed + row["problem"], *[""] * (len(columns) - 1)]
    return [format(row[key], style) if key in row else "" for _, key, style in columns]


def medians(runs: Sequence[Mapping[str, Any]], columns: Columns = COLUMNS) -> list[dict[str, Any]]:
    """One row for each case, tool and preset, the median of every number over the runs; a failed run has its own row."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["case"], run["tool"], run["preset"]), []).append(run)
    rows = []
    for (case, tool, preset), members in groups.items():
        name = {"case": case, "tool": tool, "preset": preset}
        good = [run for run in members if not run["problem"]]
        if good:
            keys = [key for _, key, _ in columns if all(key in run for run in good)]
            middle = {key: statistics.median(run[key] for run in good) for key in keys}
            rows.append(name | {"seeds": [run["seed"] for run in good], "problem": ""} | middle)
        rows += [name | {"seeds": [run["seed"]], "problem": run["problem"]} for run in members if run["problem"]]
    return rows


def table(rows: Sequence[Mapping[str, Any]], columns: Columns = COLUMNS) -> str:
    """Markdown of the rows of `medians`."""
    head = ["case", "tool", "preset", "seeds", *(heading for heading, _, _ in columns)]
    return markdown(head, ([*_name(row), *cells(row, columns)] for row in rows))


def _name(row: Mapping[str, Any]) -> list[str]:
    return [row["case"], row["tool"], row["preset"], " ".join(map(str, row["seeds"]))]
