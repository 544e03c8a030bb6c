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

from ...quality.rivals import Rival, change_of_orientation, turn_degrees
from .measure import StartSearch
from .prepare import PreparedImage
from .rotations import axis_reflections, axis_rotations, even_rotations, near_rotations

__all__ = ["COMPARE_SAMPLES", "MAX_NEAR_TURN", "SEARCH_SAMPLES", "RivalStarts", "change_of", "is_plausible", "stretch_of"]

logger = logging.getLogger(__name__)

SCREEN_SAMPLES, SEARCH_SAMPLES, COMPARE_SAMPLES = 2**10, 2**11, 2**16  # number in the smaller field of view
SCREEN_LEVELS = 4  # gray levels
MAX_NEAR_TURN = 35.0  # degrees, of the starts near the initial orientation
FEW_ROTATIONS, ALL_ROTATIONS = {2: 36, 3: 100}, {2: 48, 3: 250}
SCALES = (0.75, 1.0, 4 / 3)
FEW_CANDIDATES, ALL_CANDIDATES = 8, 16  # refined
PLAUSIBLE_STRETCH = (0.6, 1.6)  # along any direction
MIN_LEAD = 3.0  # standard errors by which another orientation must be better than the affine
AFFINE_LEAD = 2.0  # standard errors by which the affine must be better than few others, so that not all are compared
MAX_NEAR_SCALE = 1.15  # change of scale of an affine, above which few rotations at the initial scale are no rivals
MAX_MIRROR_TURN = 25.0  # degrees
MIN_DISTANCE = 1.5  # samples of the screening; closer starts are the same


class RivalStarts:
    """The best starts of other orientations, computed when needed.

    They are screened over all translations on a coarse lattice, and the best are refined in rotation, translation and scale.
    Few rotations, among them those that exchange axes, are compared with an affine first; all rotations and several scales
    only if the affine is not clearly the best. The comparison is that of :meth:`.measure.StartSearch.lead`.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare.prepare`.
        initial: matrix that defines the initial orientation, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        scaling: whether the scale of a start may differ from that of ``initial``.
    """

    def __init__(self, fixed: PreparedImage, moving: PreparedImage, initial: np.ndarray, scaling: bool = True) -> None:
        self.images, self.initial, self.scaling = (fixed, moving), initial, scaling
        self.dims = fixed.grid.dims
        self._voxels = min(math.prod(image.grid.shape) for image in self.images)

    @cached_property
    def _compare(self) -> StartSearch:
        return StartSearch(*self.images, min(COMPARE_SAMPLES, self._voxels))

    @cached_property
    def _screen(self) -> StartSearch:
        return StartSearch(*self.images, min(SCREEN_SAMPLES, self._voxels), SCREEN_LEVELS)

    @cached_property
    def _search(self) -> StartSearch:
        return StartSearch(*self.images, min(SEARCH_SAMPLES, self._voxels))

    def _refined(self, changes: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
        """Return the best starts over changes of the initial linear part, refined."""
        screened = self._screen.screened([self.initial[:-1, :-1] @ change for change in changes], count)
        refined = self._search.refined(screened, self.scaling)
        return [m for m in refined if is_plausible(stretch_of(m, self.initial))]

    @cached_property
    def few(self) -> list[np.ndarray]:
        """Starts from few rotations at the initial scale."""
        others = [r for r in even_rotations(self.dims, FEW_ROTATIONS[self.dims]) if turn_degrees(r) > MAX_NEAR_TURN]
        return self._refined(axis_rotations(self.dims) + others, FEW_CANDIDATES)

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
        if self._is_elsewhere(best, affine) or margin < AFFINE_LEAD or not self._is_near_in_scale(affine):
            best, margin = self._winner([affine, *self.few, *self.all])
        lead = self.lead(best, affine) if self._is_elsewhere(best, affine) else 0.0
        text = "best orientation: turned by %.0f degrees, %.1f standard errors better than the next, %.1f than the affine"
        logger.info(text, self.turn_degrees(best), margin, lead)
        return best if lead > MIN_LEAD else None

    def _winner(self, matrices: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """Return the matrix that agrees best, and its lead over the best of those that map elsewhere."""
        order = np.argsort(-self._compare.scores(list(matrices)), kind="stable")
        best = matrices[order[0]]
        others = [matrices[k] for k in order[1:] if self._is_elsewhere(best, matrices[k])]
        return best, self.lead(best, others[0]) if others else math.inf

    def _is_near_in_scale(self, affine: np.ndarray) -> bool:
        """Return whether few rotations at the initial scale are rivals of an affine."""
        scale = abs(float(np.linalg.det(affine[:-1, :-1]) / np.linalg.det(self.initial[:-1, :-1]))) ** (1 / self.dims)
        return max(scale, 1 / max(scale, 1e-6)) < MAX_NEAR_SCALE

    def mirrored(self, affine: np.ndarray) -> list[np.ndarray]:
        """Return the best mirrored starts, refined.

        In 3-D, the reflections of the initial matrix that map axes to axes, and of an affine, turned by up to 20 degrees.

        Args:
            affine: the affine, ``(D + 1, D + 1)``.
        """
        flip = np.diag([-1.0] + [1.0] * (self.dims - 1))
        if self.dims == 2:
            return self._refined([flip @ turn for turn in even_rotations(2, FEW_ROTATIONS[2])], FEW_CANDIDATES)
        own = change_of(affine, self.initial)
        flips = [np.roll(np.roll(flip, k, 0), k, 1) for k in range(self.dims)]
        turns = [turn for turn in near_rotations(self.dims) if turn_degrees(turn) < MAX_MIRROR_TURN]
        changes = [own @ flip @ turn for flip, turn in product(flips, turns)]
        return self._refined(axis_reflections(self.dims) + changes, FEW_CANDIDATES)

    def compared(self, affine: np.ndarray) -> tuple[Rival, ...]:
        """Return the best turned and the best mirrored start, with their leads over an affine.

        The affine is refined in the same way as the starts, if that improves it.
        """
        own, _ = self._winner([affine, *self._search.refined([affine], self.scaling)])
        found = []
        turned = [m for m in self.few if self._is_elsewhere(m, affine)]
        for mirrored, starts in ((False, turned), (True, self.mirrored(affine))):
            if starts:
                best, _ = self._winner(starts)
                name = change_of_orientation(change_of(best, self.initial))
                found.append(Rival(name, mirrored, round(self.lead(best, own), 3)))
        return tuple(found)

    def _is_elsewhere(self, first: np.ndarray, second: np.ndarray) -> bool:
        return self._screen.distance(first, second) > MIN_DISTANCE * self._screen.step

    def turn_degrees(self, matrix: np.ndarray) -> float:
        """Return the angle by which a matrix is turned from the initial orientation."""
        return turn_degrees(change_of(matrix, self.initial))


def change_of(affine: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Return the linear change of points before a matrix that gives another matrix, without translation, ``(D, D)``."""
    change: np.ndarray = np.linalg.inv(initial[:-1, :-1]) @ affine[:-1, :-1]
    return change


def stretch_of(affine: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Return the principal stretches of a matrix relative to another, largest first, ``(D,)``."""
    return np.linalg.svd(affine[:-1, :-1] @ np.linalg.inv(initial[:-1, :-1]), compute_uv=False)


def is_plausible(stretch: np.ndarray) -> bool:
    """Return whether no direction is stretched or compressed too much."""
    return bool(PLAUSIBLE_STRETCH[0] <= stretch[-1] and stretch[0] <= PLAUSIBLE_STRETCH[1])
