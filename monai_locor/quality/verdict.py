# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The verdict on a registration: PASS, WARN or FAIL, with its reasons and measures."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..tensors import plain
from .measures import measured
from .outcome import Outcome
from .reasons import RANK, Reason, ShiftLengths, reasons_of
from .rivals import Rival
from .samples import SampledPair
from .thresholds import Thresholds

__all__ = ["Verdict", "judge_outcome"]


@dataclass(frozen=True)
class Verdict:
    """Verdict on a registration, see :func:`monai_locor.report.judge`.

    Attributes:
        status: ``"PASS"``, ``"WARN"`` (check the result before use) or ``"FAIL"`` (do not use it): the worst of the reasons.
        reasons: all checks, the worst first.
        measures: plain values by name; None where one could not be measured.
        thresholds: that the measures were compared with.
        rivals: the best alignments of other orientations, if they were compared.
    """

    status: str
    reasons: tuple[Reason, ...]
    measures: dict[str, Any] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
    rivals: tuple[Rival, ...] = ()

    def __str__(self) -> str:
        texts = [r.text for r in self.reasons if r.status == self.status] if self.status != "PASS" else []
        return f"{self.status}: {'; '.join(texts) or 'no problems found'}"

    @property
    def log_level(self) -> int:
        """Level at which to log it: ``INFO`` for PASS, ``WARNING`` for WARN, ``ERROR`` for FAIL."""
        return {"PASS": logging.INFO, "WARN": logging.WARNING}.get(self.status, logging.ERROR)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        thresholds = {name: list(pair) for name, pair in dataclasses.asdict(self.thresholds).items()}
        reasons = [dataclasses.asdict(reason) for reason in self.reasons]
        rivals = [dataclasses.asdict(rival) for rival in self.rivals]
        parts = {"reasons": reasons, "measures": self.measures, "thresholds": thresholds, "rivals": rivals}
        return {"status": self.status, **parts}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Verdict:
        """Inverse of :meth:`to_dict`."""
        reasons = tuple(Reason(**reason) for reason in values["reasons"])
        rivals = tuple(Rival(**rival) for rival in values.get("rivals", ()))
        return cls(values["status"], reasons, dict(values["measures"]), Thresholds.of(values["thresholds"]), rivals)


def judge_outcome(
    outcome: Outcome,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    thresholds: Thresholds | Mapping[str, Any] | None = None,
    *,
    fixed_weight: torch.Tensor | None = None,
    moving_weight: torch.Tensor | None = None,
) -> Verdict:
    """Judge a transform by measures that its registration did not optimize.

    Args:
        outcome: transform and course of the registration.
        fixed, fixed_weight: fixed image and weights of its voxels, ``(1, *fixed_grid)``.
        moving, moving_weight: moving image and weights of its voxels, ``(1, *moving_grid)``.
        thresholds: by default :class:`Thresholds`; or a mapping of those that differ from the defaults.
    """
    limits = Thresholds.of(thresholds)
    grids = outcome.fixed_grid, outcome.moving_grid
    pair = SampledPair.of(fixed, grids[0], moving, grids[1], outcome.forward_mm, fixed_weight, moving_weight)
    measures = measured(outcome, pair, [_valid_voxels(fixed, fixed_weight), _valid_voxels(moving, moving_weight)])
    reasons = reasons_of(measures, limits, ShiftLengths.of(pair), outcome)
    reasons += [Reason("warning", "WARN", text, "check whether it affects this result") for text in outcome.doubts]
    if outcome.interrupted:
        text, advice = "interrupted: this is the best result so far", "run it to completion"
        reasons.append(Reason("finished", "WARN", text, advice))
    reasons.sort(key=lambda reason: -RANK.index(reason.status))
    worst = max([*(r.status for r in reasons), "PASS"], key=RANK.index)
    plain_values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in measures.items()}
    return Verdict(worst, tuple(reasons), plain_values, limits, tuple(outcome.rivals))


def _valid_voxels(image: torch.Tensor, weight: torch.Tensor | None) -> int:
    """Sum of the weights of the finite voxels."""
    finite = plain(image).isfinite()
    if weight is None:
        return int(finite.sum())
    return round(float(plain(weight).to(finite.device)[finite].sum(dtype=torch.float64)))
