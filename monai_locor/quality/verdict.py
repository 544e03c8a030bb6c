# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""PASS, WARN or FAIL, with the reasons: what a careful person would look at after a registration, in numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..tensors import plain
from .measures import (
    CHANCE,
    affine_shape,
    beside,
    blind_stages,
    convergence,
    counted_voxels,
    inverse_error,
    local_support,
    shared_view,
)
from .outcome import Outcome
from .reasons import RANK, Reason, reasons_of
from .samples import Samples, mutual_information
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
    """

    status: str
    reasons: tuple[Reason, ...]
    measures: dict[str, Any] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __str__(self) -> str:
        told = [r for r in self.reasons if r.status == self.status] if self.status != "PASS" else []
        return f"{self.status}: {'; '.join(r.text for r in told) or 'nothing wrong was found'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        thresholds = {name: list(pair) for name, pair in dataclasses.asdict(self.thresholds).items()}
        reasons = [dataclasses.asdict(reason) for reason in self.reasons]
        return {"status": self.status, "reasons": reasons, "measures": self.measures, "thresholds": thresholds}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Verdict:
        """From what :meth:`to_dict` gave."""
        reasons = tuple(Reason(**reason) for reason in values["reasons"])
        return cls(values["status"], reasons, dict(values["measures"]), Thresholds.of(values["thresholds"]))


def judge_outcome(
    outcome: Outcome,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    thresholds: Thresholds | Mapping[str, Any] | None = None,
    *,
    fixed_weight: torch.Tensor | None = None,
    moving_weight: torch.Tensor | None = None,
) -> Verdict:
    """Judge a registration by measures that it did not optimize.

    Args:
        outcome: transform and course of the registration.
        fixed, fixed_weight: fixed image and weights of its voxels, ``(1, *fixed_grid)``.
        moving, moving_weight: moving image and weights of its voxels, ``(1, *moving_grid)``.
        thresholds: by default :class:`Thresholds`; or a mapping of those that differ from the defaults.
    """
    limits = Thresholds.of(thresholds)
    samples = Samples.of(
        fixed, outcome.fixed_grid, moving, outcome.moving_grid, outcome.forward_mm, fixed_weight, moving_weight
    )
    measures = _measured(outcome, samples, [_counted(fixed, fixed_weight), _counted(moving, moving_weight)])
    reasons = reasons_of(measures, limits, samples, outcome.similarity, outcome.transform)
    reasons += [Reason("warning", "WARN", text, "see whether it matters here") for text in outcome.doubts]
    if outcome.interrupted:
        text, advice = "it was interrupted: this is the best it had come to", "let it run to its end"
        reasons.append(Reason("finished", "WARN", text, advice))
    reasons.sort(key=lambda reason: -RANK.index(reason.status))
    worst = max([*(r.status for r in reasons), "PASS"], key=RANK.index)
    plain_values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in measures.items()}
    return Verdict(worst, tuple(reasons), plain_values, limits)


def _counted(image: torch.Tensor, weight: torch.Tensor | None) -> int:
    """Voxels that are finite, by their weight."""
    counts = plain(image).isfinite()
    return round(float((counts if weight is None else plain(weight).to(counts.device)[counts]).double().sum()))


def _measured(outcome: Outcome, samples: Samples, voxels: Sequence[int]) -> dict[str, Any]:
    fixed, moving, initial = outcome.fixed_grid, outcome.moving_grid, outcome.initial
    fields = outcome.forward_mm, fixed, outcome.inverse_mm, moving
    after = samples.read()
    now, start = mutual_information(samples, [after, samples.read_initial(initial)])
    support, blocks = local_support(samples, after)
    inverse = inverse_error(*fields)
    jacobian = {k: outcome.jacobian[k] for k in ("min", "p01", "p99", "max", "folding_percent")}
    scale = max(abs(float(np.linalg.det(initial[:-1, :-1]))), 1e-30)
    return {
        "counted": counted_voxels(samples, after, voxels),
        "blind": blind_stages(outcome.history, samples, after, outcome.similarity),
        "overlap": shared_view(*fields),
        "nmi_before": start,
        "nmi_after": now,
        "information_gain": (now - 1 + CHANCE) / (start - 1 + CHANCE),
        "local_support": support,
        "blocks": blocks,
        "beside": beside(samples, after),
        **affine_shape(outcome.affine, initial),
        **{f"jacobian_{k}" if k in ("min", "p01", "p99", "max") else k: v for k, v in jacobian.items()},
        "volume_change": max(jacobian["p99"] / scale, scale / max(jacobian["p01"], 1e-9)),
        "inverse_mm": inverse,
        "inverse_voxels": inverse / float(fixed.spacing.min()),
        **convergence(outcome.history),
    }
