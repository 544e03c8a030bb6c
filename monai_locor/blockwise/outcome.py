# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The result of a blockwise registration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..registration import RegistrationResult
from ..registration.manifest import versions
from .state import Plan

__all__ = ["RUN_FORMAT", "BlockwiseResult", "summary_of"]

RUN_FORMAT = "monai_locor blocks run 1"


@dataclass(frozen=True, eq=False)
class BlockwiseResult:
    """The result of a blockwise registration; its images are files.

    Attributes:
        folder: output folder.
        affine: affine part, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        coarse: result of the coarse registration of the averaged images, with its verdict.
        summary: content of ``run.json``.
    """

    folder: Path
    affine: np.ndarray
    coarse: RegistrationResult
    summary: dict[str, Any]

    @property
    def status(self) -> str:
        """The verdict of the coarse registration: PASS, WARN or FAIL; at best WARN if the fine deformation folds."""
        return str(self.summary["verdict"]["status"])


def summary_of(
    plan: Plan, coarse: RegistrationResult, records: Mapping[str, Sequence[Mapping[str, Any]]], known: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of ``run.json``.

    Args:
        plan: plan of the tiles.
        coarse: coarse result.
        records: records of the jobs, by kind.
        known: further entries.
    """
    verdict: dict[str, Any] = {"status": "WARN", "reasons": []} if coarse.verdict is None else coarse.verdict.to_dict()
    jacobian = _jacobian(records["forward"])
    if jacobian["folding_voxels"] and verdict["status"] == "PASS":
        verdict = {**verdict, "status": "WARN"}
    values = plan.to_json()
    return {
        "format": RUN_FORMAT,
        **known,
        "affine": values["affine"],
        "jacobian": jacobian,
        "inverse": _inverse(records.get("inverse", [])),
        "tiles": {
            "count": len(plan.tiling),
            "registered": sum(r["state"] == "registered" for r in records["tile"]),
            "halo": values["tiling"]["halo"],
            "edges": values["tiling"]["edges"],
            "seconds": round(sum(r["seconds"] for r in records["tile"]), 1),
        },
        "settings": values["config"],
        "coarse": coarse.summary(),
        "verdict": verdict,
        "versions": versions(),
    }


def _jacobian(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    voxels, folding = (sum(r[name] for r in records) for name in ("voxels", "folding_voxels"))
    return {
        "min": min(r["least_jacobian"] for r in records),
        "max": max(r["most_jacobian"] for r in records),
        "folding_voxels": folding,
        "folding_percent": 100 * folding / max(voxels, 1),
    }


def _inverse(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not records:
        return None
    points = sum(r["points"] for r in records)
    total = sum(r["sum_residual_mm"] for r in records)
    return {"mean_residual_mm": total / max(points, 1), "largest_residual_mm": max(r["largest_residual_mm"] for r in records)}
