# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tables of `trouble.py`: statuses of right and wrong results, by kind of trouble, and whether the reasons name the cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _tables import markdown
from _trouble_pairs import INEXACT
from _verdict_tables import STATUSES, count

RIGHT_MM, WRONG_MM = 2.0, 4.0  # mean errors: at most half a voxel, at least one voxel
INEXACT_MM = 2.0  # more for pairs whose truth is inexact
CAUSES = {  # checks that name the cause of a wrong result
    "slab": {"overlap", "voxels", "stages"},
    "overlap": {"overlap", "voxels", "stages"},
    "rotation": {"turn", "other orientations", "orientation"},
    "half or quarter turn": {"turn", "other orientations", "orientation"},
    "bad start": {"turn", "other orientations", "orientation", "alignment", "overlap"},
    "header scale": {"affine", "refused", "overlap"},
    "mirror left-right": {"mirror image", "orientation", "other orientations"},
    "mirror other": {"mirror image", "orientation", "other orientations"},
    "noise only": {"alignment", "information gain"},
    "wrong patient": {"alignment", "information gain", "warning"},
    "other body part": {"alignment", "information gain"},
    "transform of another pair": {"alignment", "information gain"},
    "folded field": {"folding"},
}
Line = Mapping[str, Any]


def truth_of(line: Line) -> str:
    """``"right"``, ``"wrong"``, or ``"between"``; inexact pairs are never right."""
    inexact = line["case"].split()[0] in INEXACT
    if line["error_mm"] >= WRONG_MM + INEXACT_MM * inexact:
        return "wrong"
    return "right" if line["error_mm"] <= RIGHT_MM and not inexact else "between"


def confusion(lines: Sequence[Line]) -> str:
    """Statuses of right and wrong results, and the shares of false PASS and false FAIL with their 95 % bounds."""
    groups = {kind: [line for line in lines if truth_of(line) == kind] for kind in ("right", "between", "wrong")}
    rows = [[kind, str(len(found)), *(str(count(found, s)) for s in STATUSES)] for kind, found in groups.items()]
    table = markdown(["result", "runs", *STATUSES], rows)
    false = _bounded(groups["wrong"], "PASS"), _bounded(groups["right"], "FAIL")
    return f"{table}\n\nFalse PASS: {false[0]} of the wrong. False FAIL: {false[1]} of the right."


def by_kind(lines: Sequence[Line]) -> str:
    """For every kind of trouble, statuses of wrong and right results, and how many FAILs name the cause."""
    rows = []
    for kind in dict.fromkeys(line["transform"] for line in lines):
        mine = [line for line in lines if line["transform"] == kind]
        wrong, right = ([line for line in mine if truth_of(line) == t] for t in ("wrong", "right"))
        failed = [line for line in wrong if line["status"] == "FAIL"]
        causes = f"{sum(map(_names, failed))} of {len(failed)}" if kind in CAUSES and failed else ""
        cells = [" / ".join(str(count(part, s)) for s in STATUSES) if part else "" for part in (wrong, right)]
        errors = [line["error_mm"] for line in mine if np.isfinite(line["error_mm"])]
        rows.append([kind, str(len(mine)), f"{np.median(errors):.1f}" if errors else "", *cells, causes])
    named = [line for line in lines if line["transform"] in CAUSES and (truth_of(line), line["status"]) == ("wrong", "FAIL")]
    statuses = " / ".join(STATUSES)
    head = ["trouble", "runs", "median error, mm", f"wrong: {statuses}", f"right: {statuses}", "FAILs with the cause"]
    total = f"{sum(map(_names, named))} of {len(named)} FAILs of wrong results name the cause."
    return f"{markdown(head, rows)}\n\n{total}"


def _names(line: Line) -> bool:
    failing = {check for check, status in line["checks"].items() if status in ("WARN", "FAIL")}
    return bool(failing & CAUSES[line["transform"]])


def _bounded(lines: Sequence[Line], status: str) -> str:
    """A share with the upper 95 % bound of Clopper and Pearson."""
    from scipy.stats import beta

    found, number = count(lines, status), len(lines)
    if not number:
        return "0 of 0"
    bound = 1.0 if found == number else beta.ppf(0.95, found + 1, number - found)
    return f"{found} of {number} ({100 * found / number:.1f} %, at most {100 * bound:.1f} % with 95 % confidence)"
