# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The table of a cohort, one row for each pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .pairs import CohortPair
from .work import Outcome

__all__ = ["COLUMNS", "summary_row"]

#: columns of ``summary.csv``, with units, and their meaning
COLUMNS = {
    "id": "name of the pair",
    "state": "done; failed, after two attempts; or waiting, if the run was interrupted",
    "verdict": "PASS, WARN or FAIL",
    "reasons": "checks with WARN or FAIL",
    "error": "why the pair failed",
    "seconds": "duration of the registration",
    "attempts": "1, or 2 if the first attempt failed",
    "mean_displacement_mm": "mean length of the displacement, including the affine",
    "max_displacement_mm": "its maximum",
    "folding_percent": "percentage of voxels with a Jacobian determinant of zero or less",
    "jacobian_min": "smallest Jacobian determinant",
    "jacobian_max": "largest Jacobian determinant",
    "inverse_error_voxels": "inverse consistency error, 95th percentile, voxels of the fixed image",
    "nmi_before": "normalized mutual information at the start",
    "nmi_after": "normalized mutual information after the registration",
    "dice_before": "mean Dice of the labels before, if both label maps are given",
    "dice_after": "mean Dice of the labels after",
    "landmarks_before_mm": "mean distance of the landmarks before, if they are given",
    "landmarks_after_mm": "mean distance of the landmarks, which drove the registration, after",
    "driving_dice_before": "mean Dice of the driving labels before, if they are given",
    "driving_dice_after": "mean Dice of the driving labels after; it says nothing about other places",
    "fixed": "fixed image",
    "moving": "moving image",
    "host": "name of the machine",
}


def summary_row(pair: CohortPair, outcome: Outcome) -> dict[str, Any]:
    """The row of a pair, with the names of :data:`COLUMNS`; values that there are not are empty.

    Args:
        pair: the pair.
        outcome: of its last attempt; without record and error if it did not run.
    """
    record = outcome.record
    state = "done" if record else "failed" if outcome.error else "waiting"
    row = {**dict.fromkeys(COLUMNS, ""), "id": pair.id, "state": state, "error": outcome.error}
    row.update({"fixed": pair.fixed, "moving": pair.moving})
    return {**row, **_values(record)} if record else row


def _values(record: Mapping[str, Any]) -> dict[str, Any]:
    result = record["result"]
    verdict, jacobian, moved = (result.get(name) or {} for name in ("verdict", "jacobian", "displacement_mm"))
    measures, dice = verdict.get("measures", {}), (result.get("dice") or [{}])[0]
    landmarks, driving = result.get("landmarks_mm") or {}, result.get("label_dice") or {}
    problems = [reason["check"] for reason in verdict.get("reasons", ()) if reason["status"] in ("WARN", "FAIL")]
    values = {
        "verdict": verdict.get("status"),
        "reasons": "; ".join(dict.fromkeys(problems)),
        "seconds": result["seconds"],
        "attempts": record["attempts"],
        "mean_displacement_mm": moved.get("mean"),
        "max_displacement_mm": moved.get("max"),
        "folding_percent": jacobian.get("folding_percent"),
        "jacobian_min": jacobian.get("min"),
        "jacobian_max": jacobian.get("max"),
        "inverse_error_voxels": measures.get("inverse_voxels"),
        "nmi_before": measures.get("nmi_before"),
        "nmi_after": measures.get("nmi_after"),
        "dice_before": dice.get("before", {}).get("mean"),
        "dice_after": dice.get("after", {}).get("mean"),
        "landmarks_before_mm": landmarks.get("before", {}).get("mean"),
        "landmarks_after_mm": landmarks.get("after", {}).get("mean"),
        "driving_dice_before": driving.get("before", {}).get("mean"),
        "driving_dice_after": driving.get("after", {}).get("mean"),
        "host": record["host"],
    }
    return {name: _rounded(value) for name, value in values.items()}


def _rounded(value: Any) -> Any:
    """Four significant digits; empty for None."""
    return "" if value is None else float(f"{value:.4g}") if isinstance(value, float) else value
