# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The most doubtful places of a result, each with a reason in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter

from ..geometry import Grid, apply_affine
from ..quality.error_map import ErrorMap
from .evidence import Evidence

__all__ = ["MAX_PLACES", "Place", "doubtful_places", "separate_maxima"]

MAX_PLACES = 5
MIN_DISTANCE = 0.1  # of the longest side of the field of view, between two places
MAX_REASONS = 2
MAX_TIE_MM = 0.01  # upper bounds that differ by less are the same
MIN_EXCESS_MM = 1e-4  # over the median; less is rounding


@dataclass(frozen=True)
class Place:
    """A place where a result is doubtful.

    Attributes:
        position_mm: RAS mm, ``(D,)``.
        voxel: of the fixed image as stored, ``(D,)``.
        reason: why it is doubtful, in words.
        error_mm: expected error, lower and upper bound; None without an estimate.
    """

    position_mm: tuple[float, ...]
    voxel: tuple[int, ...]
    reason: str
    error_mm: tuple[float, float, float] | None = None


def doubtful_places(evidence: Evidence, stored: Grid, error: ErrorMap | None = None) -> list[Place]:
    """The places with the highest upper bounds of the error.

    Without an estimate of the error in the anatomy, those that exceed the limits of :meth:`.evidence.Evidence.doubt` most.

    Args:
        evidence: local measures.
        stored: grid of the fixed image as stored.
        error: estimated error.

    Returns:
        at most :data:`MAX_PLACES`, the most doubtful first; none if nothing stands out.
    """
    known = error if error is not None and _is_known(evidence, error) else None
    score = evidence.doubt() if known is None else _upper_bound(evidence, known)
    found = separate_maxima(score, evidence.grid, MIN_DISTANCE * float(stored.extent.max()), MAX_PLACES)
    return [_place(evidence, index, stored, known) for index in found]


def _is_known(evidence: Evidence, error: ErrorMap) -> bool:
    """Whether the error is determined anywhere in the anatomy."""
    return bool(error.at(evidence.grid.points()[evidence.anatomy]).determined.any())


def _upper_bound(evidence: Evidence, error: ErrorMap) -> np.ndarray:
    """Upper bound of the error at the samples in the anatomy, ``(*grid.shape)`` mm, NaN elsewhere.

    Where it is about the same, :meth:`.evidence.Evidence.doubt` decides; samples that are not above the median are left out.
    """
    out = np.full(evidence.grid.shape, np.nan)
    points = evidence.grid.points()[evidence.anatomy]
    out[evidence.anatomy] = error.at(points).high_mm.cpu().numpy()
    doubt = np.nan_to_num(evidence.doubt())
    out += MAX_TIE_MM * doubt / max(float(doubt.max()), 1e-12)
    return np.where(out > np.nanmedian(out) + MIN_EXCESS_MM, out, np.nan)


def _place(evidence: Evidence, index: tuple[int, ...], stored: Grid, error: ErrorMap | None) -> Place:
    position = apply_affine(evidence.grid.affine, np.array(index, dtype=float))
    voxel = np.rint(apply_affine(np.linalg.inv(stored.affine), position)).astype(int)
    reason = "; ".join(evidence.reasons(index)[:MAX_REASONS]) or "no single measure stands out"
    found = None
    if error is not None:
        here = error.at(position[None])
        found = float(here.expected_mm), float(here.low_mm), float(here.high_mm)
    return Place(tuple(position.tolist()), tuple(voxel.tolist()), reason, found)


def separate_maxima(score: np.ndarray, grid: Grid, distance_mm: float, count: int) -> list[tuple[int, ...]]:
    """The highest local maxima of a map that are at least a distance apart.

    Args:
        score: ``(*grid.shape)``; NaN where there is none.
        grid: of the map.
        distance_mm: between two maxima.
        count: largest number of maxima.

    Returns:
        their indices, the highest first.
    """
    known = np.isfinite(score)
    values = np.where(known, score, -np.inf)
    sides = [2 * max(1, round(distance_mm / 2 / float(step))) + 1 for step in grid.spacing]
    peaks = np.argwhere(known & (values == maximum_filter(values, sides, mode="nearest")))
    order = np.argsort(-values[tuple(peaks.T)], kind="stable")
    return _apart(peaks[order], grid, distance_mm, count)


def _apart(indices: np.ndarray, grid: Grid, distance_mm: float, count: int) -> list[tuple[int, ...]]:
    """The first indices of ``(N, D)`` that are far enough from those chosen before them."""
    points = apply_affine(grid.affine, indices.astype(float))
    chosen: list[int] = []
    for number, point in enumerate(points):
        if len(chosen) == count:
            break
        if _is_far(point, points[chosen], distance_mm):
            chosen.append(number)
    return [tuple(indices[number].tolist()) for number in chosen]


def _is_far(point: np.ndarray, others: Sequence[np.ndarray] | np.ndarray, distance_mm: float) -> bool:
    return all(np.linalg.norm(point - other) >= distance_mm for other in others)
