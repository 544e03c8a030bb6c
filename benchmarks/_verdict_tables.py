# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tables of `verdict.py`: confusion, false PASS and FAIL, areas under the ROC curves."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

RIGHT_MM, WRONG_MM = 1.5, 3.0  # mean errors: at most, at least; those between are neither right nor wrong
STATUSES = ("PASS", "WARN", "FAIL")
MEASURES = ("local_support", "near_contrast", "far_contrast", "nmi_shift_ratio", "nmi_turn_ratio", "nmi_mirror_ratio")
Lines = Sequence[Mapping[str, Any]]


def truth_of(line: Mapping[str, Any], inexact: Collection[str] = ()) -> str:
    """``"right"``, ``"wrong"``, or ``"between"`` for errors between the limits and right transforms of inexact cases."""
    if line["error_mm"] >= WRONG_MM:
        return "wrong"
    return "right" if line["error_mm"] <= RIGHT_MM and line["case"] not in inexact else "between"


def tables(lines: Lines, inexact: Collection[str] = ()) -> str:
    """All tables as Markdown."""
    groups = {kind: [line for line in lines if truth_of(line, inexact) == kind] for kind in ("right", "between", "wrong")}
    rows = [[kind, len(found), *(count(found, status) for status in STATUSES)] for kind, found in groups.items()]
    names = list(dict.fromkeys(line["transform"] for line in lines))
    by_kind = []
    for name in names:
        found = [line for line in lines if line["transform"] == name]
        errors = [line["error_mm"] for line in found if math.isfinite(line["error_mm"])]
        error = f"{np.median(errors):.1f}" if errors else ""
        by_kind.append([name, error, len(found), *(count(found, status) for status in STATUSES)])
    areas = [[name, _number(area(groups["right"], groups["wrong"], name))] for name in MEASURES]
    false = _share(groups["wrong"], "PASS"), _share(groups["right"], "FAIL")
    parts = [
        _table(["transforms", "number", *STATUSES], rows),
        "False PASS: {} of the wrong. False FAIL: {} of the right.".format(*false),
        _table(["measure", "area under the ROC curve, right against wrong"], areas),
        _table(["transform", "median error, mm", "number", *STATUSES], by_kind),
    ]
    return "\n\n".join(parts)


def area(right: Lines, wrong: Lines, measure: str) -> float:
    """Probability that a measure is higher for a right than for a wrong transform, ties counted half; NaN without either."""
    values = [
        [line["measures"][measure] for line in lines if line["measures"].get(measure) is not None] for lines in (right, wrong)
    ]
    if not all(values):
        return math.nan
    differences = np.subtract.outer(*map(np.array, values))
    return float((differences > 0).mean() + (differences == 0).mean() / 2)


def count(lines: Lines, status: str) -> int:
    """How many of the judged transforms have this status."""
    return sum(line["status"] == status for line in lines)


def _share(lines: Lines, status: str) -> str:
    return f"{count(lines, status)} of {len(lines)} ({100 * count(lines, status) / max(len(lines), 1):.1f} %)"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows))
