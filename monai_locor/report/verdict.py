# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""PASS, WARN or FAIL, with the reasons: what a careful person would look at after a registration, in numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid
from ..io import ImageSource, read_image
from ..io.masks import mask_on_grid
from ..registration.channels import first_image
from ..tensors import plain
from .thresholds import Thresholds
from .verdict_measures import (
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
from .verdict_reasons import RANK, Reason, reasons_of
from .verdict_samples import Samples, mutual_information

if TYPE_CHECKING:
    from ..registration.result import RegistrationResult

__all__ = ["Reason", "Thresholds", "Verdict", "judge"]


@dataclass(frozen=True)
class Verdict:
    """What :func:`judge` says of a registration.

    Attributes:
        status: ``"PASS"``, ``"WARN"`` (look at it) or ``"FAIL"`` (do not use it), the worst of the reasons'.
        reasons: everything that was looked at, the worst first.
        measures: the numbers, plain values; None where one could not be measured.
        thresholds: that they were held against.
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


def judge(
    result: RegistrationResult,
    fixed: ImageSource,
    moving: ImageSource,
    thresholds: Thresholds | Mapping[str, Any] | None = None,
    *,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
) -> Verdict:
    """Judge a registration by what it did not optimize.

    It takes about half a second: the images are compared on some 130 000 samples.

    Args:
        result: of the registration; its ``initial`` is what a gain is measured from.
        fixed, moving, fixed_mask, moving_mask: as they were given to :func:`monai_locor.register`; of several channels, the
            first is looked at.
        thresholds: by default :class:`Thresholds`; or a mapping of those that differ.

    Raises:
        InputError: when the images are not those of the result.
    """
    limits = Thresholds.of(thresholds)
    sources = {"fixed": (fixed, fixed_mask, result.fixed_grid), "moving": (moving, moving_mask, result.moving_grid)}
    (first, weight), (second, moving_weight) = (_read(role, *source) for role, source in sources.items())
    samples = Samples.of(first, result.fixed_grid, second, result.moving_grid, result.forward_mm, weight, moving_weight)
    voxels = [_counted(first, weight), _counted(second, moving_weight)]
    measures = _measured(result, samples, voxels)
    reasons = reasons_of(measures, limits, samples, result.config.similarity, result.config.transform)
    reasons += [Reason("warning", "WARN", text, "see whether it matters here") for text in result.doubts]
    if result.interrupted:
        text, advice = "it was interrupted: this is the best it had come to", "let it run to its end"
        reasons.append(Reason("finished", "WARN", text, advice))
    reasons.sort(key=lambda reason: -RANK.index(reason.status))
    worst = max([*(r.status for r in reasons), "PASS"], key=RANK.index)
    plain_values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in measures.items()}
    return Verdict(worst, tuple(reasons), plain_values, limits)


def _read(role: str, image: ImageSource, mask: ImageSource | None, grid: Grid) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An image and the weights of its voxels, each ``(1, *grid)``."""
    values, valid = read_image(first_image(image), role)
    shape = tuple(values.shape[1:])
    if shape != grid.shape:
        raise InputError(f"the {role} image has shape {shape}, that of the result {grid.shape}; give the same.")
    if mask is None:
        return values, None if valid is None else valid.float()
    weight = mask_on_grid(mask, role, grid)
    return values, weight if valid is None else weight * valid.to(weight)


def _counted(image: torch.Tensor, weight: torch.Tensor | None) -> int:
    """Voxels that are finite, by their weight."""
    counts = plain(image).isfinite()
    return round(float((counts if weight is None else plain(weight).to(counts.device)[counts]).double().sum()))


def _measured(result: RegistrationResult, samples: Samples, voxels: Sequence[int]) -> dict[str, Any]:
    fixed, moving = result.fixed_grid, result.moving_grid
    fields = result.forward_mm, fixed, result.inverse_mm, moving
    initial = np.eye(fixed.dims + 1) if result.initial is None else result.initial
    after = samples.read()
    now, start = mutual_information(samples, [after, samples.read_initial(initial)])
    support, blocks = local_support(samples, after)
    inverse = inverse_error(*fields)
    jacobian = {k: result.jacobian[k] for k in ("min", "p01", "p99", "max", "folding_percent")}
    scale = max(abs(float(np.linalg.det(initial[:-1, :-1]))), 1e-30)
    return {
        "counted": counted_voxels(samples, after, voxels),
        "blind": blind_stages(result.history, samples, after, result.config.similarity),
        "overlap": shared_view(*fields),
        "nmi_before": start,
        "nmi_after": now,
        "information_gain": (now - 1 + CHANCE) / (start - 1 + CHANCE),
        "local_support": support,
        "blocks": blocks,
        "beside": beside(samples, after),
        **affine_shape(result.affine, initial),
        **{f"jacobian_{k}" if k in ("min", "p01", "p99", "max") else k: v for k, v in jacobian.items()},
        "volume_change": max(jacobian["p99"] / scale, scale / max(jacobian["p01"], 1e-9)),
        "inverse_mm": inverse,
        "inverse_voxels": inverse / float(fixed.spacing.min()),
        **convergence(result.history),
    }
