# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Multi-start search over all translations and rotations, and the choice between two affines.

Starts near the initial orientation are registered if they are about as good as the affine to check. The orientation is usually
right, so a start of another orientation must be better by more than chance, see :class:`.rivals.RivalStarts`.

A few windows may not determine an affine: in slices of heads with bright fat in one contrast only, the coarse stages moved away
from good starts, and shrank one image by a fifth (benchmarks/results/slices.md). A start that agrees clearly better is kept.
"""

from __future__ import annotations

import logging
import math

import numpy as np

from ...quality.rivals import turn_degrees
from .measure import StartSearch
from .prepare import PreparedImage
from .rivals import COMPARE_SAMPLES, MAX_NEAR_TURN, SEARCH_SAMPLES, RivalStarts, change_of, is_plausible, stretch_of
from .rotations import near_rotations

__all__ = ["START", "better_start", "chosen_affine"]

logger = logging.getLogger(__name__)

START = 2  # result of `chosen_affine`

MAX_CANDIDATES = 5  # refined
MIN_START_DISTANCE = 0.6  # samples; closer starts converge to the same affine
MIN_RELATIVE_SCORE = 0.95  # of another start, relative to the affine
CLEARLY_WORSE_SCORE = 0.8  # relative to the better affine; below it, the loss is not used
CLEARLY_BETTER_SCORE = 1.1  # of a start relative to the affine; above it, the loss is not used; up to 1.05 by chance
DRIFTED_SCORE = 1.2  # of a start relative to the better affine; above it, the start is better than what the stages made of it
CHANCE_SCORE = 5e-4  # typical of unrelated images


def better_start(
    fixed: PreparedImage,
    moving: PreparedImage,
    affine: np.ndarray,
    initial: np.ndarray,
    scaling: bool = True,
    rivals: RivalStarts | None = None,
) -> np.ndarray | None:
    """Compare an affine with the result of a global search.

    The measure is coarse and differs from the loss of the registration, so it cannot decide between nearly equal alignments.
    Therefore a start near the initial orientation that is nearly as good is also returned, and :func:`chosen_affine`
    decides after its registration.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare.prepare`.
        affine: affine to be checked, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        initial: its initial affine. The search covers all rotations relative to its linear part and all translations.
        scaling: whether the scale of a start may differ from that of ``initial``.
        rivals: starts of other orientations; by default computed.

    Returns:
        the other initial affine, ``(D + 1, D + 1)`` RAS mm; None if none of similar quality was found.
    """
    near = _near_start(fixed, moving, affine, initial, scaling)
    rivals = RivalStarts(fixed, moving, initial, scaling) if rivals is None else rivals
    other = rivals.better(affine if near is None else near)
    if near is not None and other is not None and rivals.lead(other, affine) < 0:
        other = None  # the near start, not the affine, was poor
    return near if other is None else other


def _near_start(
    fixed: PreparedImage, moving: PreparedImage, affine: np.ndarray, initial: np.ndarray, scaling: bool
) -> np.ndarray | None:
    """Return a start near the initial orientation that is about as good as an affine; None if there is none."""
    search = StartSearch(fixed, moving, SEARCH_SAMPLES)
    linear = [initial[:-1, :-1] @ rotation for rotation in near_rotations(search.dims)]
    matrices = search.refined([affine, *search.screened(linear, MAX_CANDIDATES)], scaling)
    elsewhere = [m for m in matrices if search.distance(affine, m) > MIN_START_DISTANCE * search.step]
    scores = StartSearch(fixed, moving, COMPARE_SAMPLES).scores([affine, *elsewhere])
    stretch = stretch_of(affine, initial)
    enough = MIN_RELATIVE_SCORE * scores[0] + CHANCE_SCORE if is_plausible(stretch) else CHANCE_SCORE
    best = int(scores[1:].argmax()) if elsewhere else None
    found = None if best is None or scores[best + 1] < enough else elsewhere[best]
    logger.info(
        "affine scores %.4f, stretch %.2f to %.2f; other starts %s: %s",
        *(scores[0], stretch[-1], stretch[0], scores[1:].round(4), "kept" if found is None else "restarting"),
    )
    return found


def chosen_affine(
    fixed: PreparedImage,
    moving: PreparedImage,
    affines: tuple[np.ndarray, np.ndarray],
    losses: tuple[float, float],
    initial: np.ndarray,
    start: np.ndarray,
) -> int:
    """Choose between two affines, and the start of the second if neither agrees nearly as well.

    Args:
        affines: both affines, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        losses: final losses of both; may be NaN.
        initial: initial affine of the first.
        start: initial affine of the second.

    Returns:
        0 for the first, 1 for the second, :data:`START` for the start.
    """
    search = StartSearch(fixed, moving, COMPARE_SAMPLES)
    scores = search.scores([*affines, start])
    logger.info("two affines: scores %.4f and %.4f (start %.4f), losses %.4f and %.4f", *scores, *losses)
    drifted = scores[START] > DRIFTED_SCORE * scores[:START].max()
    if drifted and is_plausible(stretch_of(start, initial)):
        return START
    return int(_second_is_better(search, affines, scores, losses, initial, start))


def _second_is_better(
    search: StartSearch,
    affines: tuple[np.ndarray, np.ndarray],
    scores: np.ndarray,
    losses: tuple[float, float],
    initial: np.ndarray,
    start: np.ndarray,
) -> bool:
    """Choose between two affines by the measure of the search or, if neither is clearly better, by the loss.

    The loss alone is not sufficient, because it is a mean over the overlap, and air has small residuals. It is not used at all
    if the second start has another orientation.
    """
    plausible = [is_plausible(stretch_of(affine, initial)) for affine in affines]
    if plausible[0] != plausible[1]:
        return plausible[1]
    first, second, started = scores
    if turn_degrees(change_of(start, initial)) > MAX_NEAR_TURN:
        return search.lead(affines[1], affines[0]) > 0
    if min(first, second) < CLEARLY_WORSE_SCORE * max(first, second):
        return bool(second > first)
    if started > CLEARLY_BETTER_SCORE * first:
        return True
    return losses[1] < losses[0] or (math.isnan(losses[0]) and not math.isnan(losses[1]))
