# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Translations at which two lattices can overlap enough, and the size of the Fourier transforms that tell these apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Lags", "smooth_length"]

ROUNDING = 1e-4  # of the sums of weights, relative


@dataclass(frozen=True)
class Lags:
    """A box of translations of one lattice over another; at lag t, sample i of the first coincides with i - t of the second.

    Attributes:
        first, last: smallest and largest lag along each axis, samples.
        size: size of a circular correlation in which no lag of the box coincides with another lag, samples.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def of(cls, fixed: Sequence[np.ndarray], moving: Sequence[np.ndarray], needed: float) -> Lags:
        """Find the lags where the lattices may overlap by ``needed`` or more.

        Args:
            fixed, moving: profiles of the weights, 0 to 1, of both lattices along each axis: the sums over all other axes.
            needed: the overlap, sum of the products of the weights.
        """
        ranges = [_range(f, m, needed) for f, m in zip(fixed, moving, strict=True)]
        first, last = zip(*ranges, strict=True)
        # lags t and t + size coincide; all lags are from 1 - m to n - 1
        sizes = zip(map(len, fixed), map(len, moving), first, last, strict=True)
        size = tuple(smooth_length(max(n, m, n - low, m + high)) for n, m, low, high in sizes)
        return cls(first, last, size)

    def indices(self) -> np.ndarray:
        """Return the indices of the lags in the flattened correlation, ``(N,)``."""
        per_axis = [np.arange(a, b + 1) % n for a, b, n in zip(self.first, self.last, self.size, strict=True)]
        return np.ravel_multi_index(np.meshgrid(*per_axis, indexing="ij"), self.size).ravel()

    def at(self, index: int) -> np.ndarray:
        """Return the lag of an index in the flattened correlation, ``(D,)``."""
        first = np.array(self.first)
        return first + (np.array(np.unravel_index(index, self.size)) - first) % np.array(self.size)


def _range(fixed: np.ndarray, moving: np.ndarray, needed: float) -> tuple[int, int]:
    """Return the first and the last lag at which both profiles have enough weight in the samples that coincide."""
    n, m = len(fixed), len(moving)
    lags = np.arange(1 - m, n)
    begin, end = np.maximum(lags, 0), np.minimum(lags + m, n)
    within = []
    for profile, shift in ((fixed, 0), (moving, lags)):
        total = np.concatenate(([0.0], np.cumsum(profile)))
        within.append(total[end - shift] - total[begin - shift])
    enough = lags[np.minimum(*within) >= needed * (1 - ROUNDING)]
    return (int(enough[0]), int(enough[-1])) if len(enough) else (1 - m, n - 1)


def smooth_length(n: int) -> int:
    """Return the smallest length >= ``n`` with no prime factors other than 2, 3 and 5, for fast FFTs.

    >>> smooth_length(13)
    15
    """
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
