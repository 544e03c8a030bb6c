# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The translations that a search over all translations considers, against correlations without any shortcut."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import correlate

from monai_locor.registration.start.lags import Lags

SHAPES = [((7, 9), (12, 4)), ((6, 5, 8), (11, 12, 3)), ((4, 1, 6), (4, 9, 6)), ((10,), (3,))]


def weights(shape: tuple[int, ...], rng: np.random.Generator, thin: bool) -> np.ndarray:
    """Weights of a lattice: random ones, or a diagonal slab as in a lattice that is larger than its image."""
    if not thin:
        return rng.random(shape)
    plane = sum(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return (np.abs(plane) < 0.5).astype(float)


def profiles(values: np.ndarray) -> list[np.ndarray]:
    return [values.sum(tuple(other for other in range(values.ndim) if other != axis)) for axis in range(values.ndim)]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_no_translation_with_enough_overlap_is_missed(shapes, thin, share):
    rng = np.random.default_rng(0)
    fixed, moving = weights(shapes[0], rng, False), weights(shapes[1], rng, thin)
    needed = share * min(fixed.sum(), moving.sum())
    lags = Lags.of(profiles(fixed), profiles(moving), needed)
    spectra = [np.fft.rfftn(v, s=lags.size, axes=range(v.ndim)) for v in (fixed, moving)]
    circular = np.fft.irfftn(spectra[0] * spectra[1].conj(), s=lags.size, axes=range(fixed.ndim)).ravel()
    expected = correlate(fixed, moving, mode="full")  # lag 1 - m first
    origin = np.array(moving.shape) - 1
    enough = {tuple(index - origin) for index in np.argwhere(expected >= needed)}
    found = {tuple(lags.at(int(index))): circular[index] for index in lags.indices()}
    assert enough <= set(found)
    for lag, overlap in found.items():
        assert overlap == pytest.approx(expected[tuple(np.array(lag) + origin)], abs=1e-9)


def test_all_translations_if_none_overlaps_enough():
    lags = Lags.of([np.ones(5)], [np.ones(3)], 4.0)
    assert (lags.first, lags.last, lags.size) == ((-2,), (4,), (8,))


def test_the_transforms_are_smaller_where_little_overlap_does_not_count():
    profile = np.full(40, 1600.0)
    every, half = (Lags.of([profile] * 3, [profile] * 3, share * 64000) for share in (0.0, 0.5))
    assert every.size == (80,) * 3 and half.size == (60,) * 3
