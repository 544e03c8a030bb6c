# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The measures behind a verdict: fast to compute, and not what the registration optimized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..geometry import Grid, inside, mapped_points
from ..metrics import inverse_consistency
from ..tensors import plain
from .alignment import NMI_BIAS, local_fit, shifted_information_ratio
from .orientation import orientation_ratios
from .outcome import Outcome
from .rivals import leads, turn_degrees
from .samples import MIN_VALID_SAMPLES, Reading, SampledPair, every_nth, mutual_information

__all__ = [
    "affine_shape",
    "convergence",
    "inverse_error",
    "measured",
    "shared_field_of_view",
    "stages_without_overlap",
    "valid_voxels",
]

OVERLAP_SAMPLES = 2**14
INVERSE_SAMPLES = 2**15
EMPTY_LOSS = {"normalized_mutual_information": -1.0}  # loss of an empty overlap; 0 for the other similarity measures
START_TOLERANCE = 0.25  # of a voxel of the moving image along every axis
SAME_IMAGE_CORRELATION = 0.999  # images that correlate more are equal up to their contrast


def measured(outcome: Outcome, pair: SampledPair, voxels: Sequence[int]) -> dict[str, Any]:
    """All measures by name.

    Args:
        outcome: transform and course of the registration.
        pair: sampled images.
        voxels: numbers of valid voxels of the fixed and of the moving image.

    Returns:
        plain values, NaN where one cannot be measured.
    """
    after = pair.read()
    return {
        "valid_voxels": valid_voxels(pair, after, voxels),
        "stages_without_overlap": stages_without_overlap(outcome.history or (), pair, after, outcome.similarity),
        "overlap": shared_field_of_view(outcome.forward_mm, outcome.fixed_grid, outcome.inverse_mm, outcome.moving_grid),
        **_information(outcome, pair, after),
        **local_fit(pair, after),
        "nmi_shift_ratio": shifted_information_ratio(pair, after),
        **orientation_ratios(pair, after),
        **affine_shape(outcome.affine, outcome.start),
        **leads(outcome.rivals),
        **_jacobian(outcome),
        **_inverse(outcome),
        **convergence(outcome.history),
    }


def _information(outcome: Outcome, pair: SampledPair, after: Reading) -> dict[str, float]:
    """NMI at the start and at the end.

    The gain is relative to the start displaced by a fraction of a voxel, if that is lower: where the voxels of both images
    coincide, nothing is interpolated, and NMI is higher than that of any result (2 for an image with itself).
    """
    voxel = np.abs(outcome.moving_grid.affine[:-1, :-1]).sum(1)
    beside = outcome.start.copy()
    beside[:-1, -1] += START_TOLERANCE * voxel
    end, start, near = mutual_information(pair, [after, pair.read_affine(outcome.start), pair.read_affine(beside)])
    gain = (end - 1 + NMI_BIAS) / (min(start, near) - 1 + NMI_BIAS)
    return {"nmi_before": start, "nmi_after": end, "information_gain": gain}


def _jacobian(outcome: Outcome) -> dict[str, float]:
    """Folding and volume change."""
    jacobian = outcome.jacobian
    scale = max(abs(float(np.linalg.det(outcome.start[:-1, :-1]))), 1e-30)
    return {
        **{f"jacobian_{name}": jacobian[name] for name in ("min", "p01", "p99", "max")},
        "folding_percent": jacobian["folding_percent"],
        "volume_change": max(jacobian["p99"] / scale, scale / max(jacobian["p01"], 1e-9)),
    }


def _inverse(outcome: Outcome) -> dict[str, float]:
    """Inverse consistency error."""
    error = inverse_error(outcome.forward_mm, outcome.fixed_grid, outcome.inverse_mm, outcome.moving_grid)
    return {"inverse_mm": error, "inverse_voxels": error / float(outcome.fixed_grid.spacing.min())}


def valid_voxels(pair: SampledPair, after: Reading, voxels: Sequence[int]) -> int:
    """Number of voxels that drive the registration at its end.

    Args:
        pair: sampled images.
        after: ``pair.read()``.
        voxels: numbers of voxels of the fixed and of the moving image that are finite and inside the mask.
    """
    fewest = min(voxels)
    voxels_per_sample = math.prod(pair.fixed_shape) / pair.fixed.numel()
    if fewest <= MIN_VALID_SAMPLES * voxels_per_sample:
        return fewest
    return min(fewest, round(float(after[1].sum()) * voxels_per_sample))


def stages_without_overlap(
    history: Sequence[Mapping[str, Any]], pair: SampledPair, after: Reading, similarity: str = ""
) -> float:
    """Share of the stages whose final loss was exactly that of an empty overlap, 0 for most similarity measures.

    The overlap is empty if the images or their masks do not meet, or have no contrast where they meet. A loss may also be zero
    because the images are equal; then the share is 0.

    Args:
        history: one mapping per stage, with its losses under ``"loss"``.
        pair: sampled images.
        after: ``pair.read()``.
        similarity: name of the similarity measure.

    Returns:
        NaN without steps.
    """
    ends = [stage["loss"][-1] for stage in history if stage["loss"]]
    if not ends:
        return math.nan
    first, second = pair.fixed[after[1]], after[0][after[1]]
    empty = EMPTY_LOSS.get(similarity, 0.0)
    if empty in ends and len(first) >= MIN_VALID_SAMPLES:
        correlation = torch.corrcoef(torch.stack((first, second.to(first))))[0, 1]  # NaN without contrast
        if bool(correlation.abs() > SAME_IMAGE_CORRELATION):
            return 0.0
    return ends.count(empty) / len(ends)


def shared_field_of_view(forward_mm: torch.Tensor, fixed: Grid, inverse_mm: torch.Tensor, moving: Grid) -> float:
    """Share of the smaller field of view that the transform maps into the other one."""
    shares = []
    for displacement, grid, other in ((forward_mm, fixed, moving), (inverse_mm, moving, fixed)):
        cut, coarse = every_nth(grid, OVERLAP_SAMPLES)
        points = mapped_points(coarse, other, plain(displacement)[cut].detach())
        shares.append(float(inside(points, other.shape, margin=-0.5).double().mean()))
    return max(shares)


def inverse_error(forward_mm: torch.Tensor, fixed: Grid, inverse_mm: torch.Tensor, moving: Grid) -> float:
    """95th percentile of :func:`monai_locor.metrics.inverse_consistency` over a subset of the voxels, mm.

    NaN if the fields of view do not overlap.
    """
    cut, grid = every_nth(fixed, INVERSE_SAMPLES)
    errors = inverse_consistency(plain(forward_mm)[cut].detach(), grid, plain(inverse_mm).detach(), moving)
    return float(errors.quantile(0.95)) if len(errors) else math.nan


def affine_shape(affine: np.ndarray, initial: np.ndarray) -> dict[str, float]:
    """Stretch and shear of the linear part of an affine, relative to another one.

    Returns:
        ``affine_determinant``; ``stretch``, the largest factor by which a length grows or shrinks; ``shear_degrees``, the
        largest change of a right angle; ``turn_degrees``, the angle of the rotation, NaN with a reflection.

    >>> affine_shape(np.diag([2.0, 1, 1, 1]), np.eye(4))["stretch"]
    2.0
    """
    linear = affine[:-1, :-1] @ np.linalg.inv(initial[:-1, :-1])
    scales, determinant = np.linalg.svd(linear, compute_uv=False), float(np.linalg.det(linear))
    squares = scales[0] ** 2, scales[-1] ** 2
    return {
        "affine_determinant": determinant,
        "stretch": float(max(scales[0], 1 / max(scales[-1], 1e-12))),
        "shear_degrees": math.degrees(math.asin((squares[0] - squares[1]) / max(squares[0] + squares[1], 1e-30))),
        "turn_degrees": turn_degrees(linear) if determinant > 0 else math.nan,
    }


def convergence(history: Sequence[Mapping[str, Any]] | None) -> dict[str, float]:
    """How the optimization ended.

    Returns:
        ``late_change``, the share of the total change of all losses that falls into the last quarter of the last stage,
        negative if the loss rose there, NaN without steps; ``skipped_steps``, the share of steps that were undone because
        their loss or gradient was not finite or their loss rose a lot. Both are NaN if the history is unknown (None).
    """
    if history is None:
        return {"late_change": math.nan, "skipped_steps": math.nan}
    losses = [[v for v in stage["loss"] if v is not None] for stage in history]
    steps = sum(len(stage["loss"]) for stage in history)
    falls: list[list[float]] = []
    for values in losses:
        quarter = max(1, len(values) // 4)
        parts = [np.mean(values[max(0, end - quarter) : end]) for end in range(len(values), 0, -quarter)][::-1]
        falls.append([float(a - b) for a, b in pairwise(parts)])
    total = sum(abs(f) for fall in falls for f in fall)
    rest = falls[-1][-1] / total if falls and falls[-1] and total > 0 else math.nan
    undone = sum(stage.get("undone_steps", stage["loss"].count(None)) for stage in history)
    return {"late_change": float(rest), "skipped_steps": undone / steps if steps else 0.0}
