# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Starts of other orientations than the initial one: all rotations, several scales, reflections."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from itertools import product

import numpy as np

from .measure import StartSearch
from .prepare import PreparedImage
from .rotations import axis_rotations, even_rotations, turn_degrees

__all__ = ["COMPARE_SAMPLES", "MAX_NEAR_TURN", "SEARCH_SAMPLES", "RivalStarts", "is_plausible", "stretch_of"]

logger = logging.getLogger(__name__)

SCREEN_SAMPLES, SEARCH_SAMPLES, COMPARE_SAMPLES = 2**10, 2**11, 2**16  # number in the smaller field of view
SCREEN_LEVELS = 4  # gray levels
MAX_NEAR_TURN = 35.0  # degrees, of the starts near the initial orientation
FEW_ROTATIONS, ALL_ROTATIONS = {2: 36, 3: 100}, {2: 48, 3: 250}
SCALES = (0.75, 1.0, 4 / 3)
FEW_CANDIDATES, ALL_CANDIDATES = 8, 16  # refined
PLAUSIBLE_STRETCH = (0.6, 1.6)  # along any direction
MIN_LEAD = 3.0  # standard errors by which another orientation must be better than the affine
CLEAR_LEAD = 4.0  # standard errors by which the best of few must be better than the next, so that not all are compared
AFFINE_LEAD = 2.0  # likewise, if the best is the affine
MIN_DISTANCE = 1.5  # samples of the screening; closer starts are the same


class RivalStarts:
    """The best starts of other orientations, computed when needed.

    They are screened over all translations on a coarse lattice, and the best are refined in rotation, translation and scale.
    Few rotations, among them those that exchange axes, are compared with an affine first; all rotations and several scales
    only if none of these is clearly the best. The comparison is that of :meth:`.measure.StartSearch.lead`.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare.prepare`.
        initial: matrix that defines the initial orientation, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        scaling: whether the scale of a start may differ from that of ``initial``.
    """

    def __init__(self, fixed: PreparedImage, moving: PreparedImage, initial: np.ndarray, scaling: bool = True) -> None:
        self.images, self.initial, self.scaling = (fixed, moving), initial, scaling
        self.dims = fixed.grid.dims

    @cached_property
    def _compare(self) -> StartSearch:
        return StartSearch(*self.images, COMPARE_SAMPLES)

    @cached_property
    def _screen(self) -> StartSearch:
        return StartSearch(*self.images, SCREEN_SAMPLES, SCREEN_LEVELS)

    @cached_property
    def _search(self) -> StartSearch:
        return StartSearch(*self.images, SEARCH_SAMPLES)

    def _refined(self, changes: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
        """Return the best starts over changes of the initial linear part, refined."""
        screened = self._screen.screened([self.initial[:-1, :-1] @ change for change in changes], count)
        refined = self._search.refined(screened, self.scaling)
        return [m for m in refined if is_plausible(stretch_of(m, self.initial))]

    @cached_property
    def few(self) -> list[np.ndarray]:
        """Starts turned by more than :data:`MAX_NEAR_TURN`, from few rotations."""
        rotations = axis_rotations(self.dims) + even_rotations(self.dims, FEW_ROTATIONS[self.dims])
        return self._refined([r for r in rotations if turn_degrees(r) > MAX_NEAR_TURN], FEW_CANDIDATES)

    @cached_property
    def all(self) -> list[np.ndarray]:
        """Starts from all rotations and scales."""
        scales = SCALES if self.scaling else (1.0,)
        rotations = even_rotations(self.dims, ALL_ROTATIONS[self.dims])
        return self._refined([scale * r for scale, r in product(scales, rotations)], ALL_CANDIDATES)

    def lead(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return by how many standard errors the first matrix agrees better, see :meth:`.measure.StartSearch.lead`."""
        return self._compare.lead(first, second)

    def better(self, affine: np.ndarray) -> np.ndarray | None:
        """Return a start that agrees better than an affine by more than chance, ``(D + 1, D + 1)``; None if there is none."""
        best, margin = self._winner([affine, *self.few])
        if margin < (AFFINE_LEAD if best is affine else CLEAR_LEAD):
            best, margin = self._winner([affine, *self.few, *self.all])
        lead = 0.0 if best is affine else self.lead(best, affine)
        text = (
            "best of all orientations: turned by %.0f degrees, %.1f standard errors better than the next, %.1f than the affine"
        )
        logger.info(text, self.turn_degrees(best), margin, lead)
        return best if lead > MIN_LEAD else None

    def _winner(self, matrices: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """Return the matrix that agrees best, and its lead over the best of those that map elsewhere."""
        order = np.argsort(-self._compare.scores(list(matrices)), kind="stable")
        best = matrices[order[0]]
        others = [matrices[k] for k in order[1:] if self._compare.distance(best, matrices[k]) > self._elsewhere_mm]
        return best, self.lead(best, others[0]) if others else math.inf

    @property
    def _elsewhere_mm(self) -> float:
        return MIN_DISTANCE * self._screen.step

    def turn_degrees(self, matrix: np.ndarray) -> float:
        """Return the angle by which a matrix is turned from the initial orientation."""
        return turn_degrees(np.linalg.inv(self.initial[:-1, :-1]) @ matrix[:-1, :-1])


def stretch_of(affine: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Return the principal stretches of a matrix relative to another, largest first, ``(D,)``."""
    return np.linalg.svd(affine[:-1, :-1] @ np.linalg.inv(initial[:-1, :-1]), compute_uv=False)


def is_plausible(stretch: np.ndarray) -> bool:
    """Return whether no direction is stretched or compressed too much."""
    return bool(PLAUSIBLE_STRETCH[0] <= stretch[-1] and stretch[0] <= PLAUSIBLE_STRETCH[1])
