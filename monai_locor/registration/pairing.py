# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Number and weights of image pairs for several images per side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import InputError
from .numbers import POSITIVE

__all__ = ["checked_weights", "pair_count"]


def pair_count(fixed: int, moving: int) -> int:
    """Return the number of pairs; a single image of one side is paired with each image of the other.

    >>> pair_count(2, 2), pair_count(1, 3)
    (2, 3)

    Raises:
        InputError: if the numbers differ and neither is one.
    """
    if min(fixed, moving) != 1 and fixed != moving:
        raise InputError(f"{fixed} fixed and {moving} moving images: give as many of each, or one of either.")
    return max(fixed, moving)


def checked_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Return one weight for each pair of channels; the default is 1.

    Raises:
        InputError: if the number of weights differs from the number of pairs, or if a weight is not positive.
    """
    if weights is None:
        return (1.0,) * count
    given = list(weights) if isinstance(weights, Iterable) else [weights]
    if len(given) != count:
        raise InputError(f"channel_weights {given}: {count} needed, one for each pair of images.")
    for value in given:
        POSITIVE.check("channel_weights", value)
    return tuple(float(value) for value in given)
