# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Which voxels are labels, masks, tensors and directions, and which are images."""

from __future__ import annotations

import numpy as np
import pytest

from monai_locor.io.content_detection import labels_in, vectors_in

SHAPE = (24, 22, 20)


def blocks(count: int, size: int = 4, seed: int = 0) -> np.ndarray:
    """Patches of random labels 0 to count - 1."""
    coarse = np.random.default_rng(seed).integers(0, count, [-(-n // size) for n in SHAPE])
    return np.kron(coarse, np.ones((size,) * 3, int))[tuple(slice(n) for n in SHAPE)]


def smooth(seed: int = 0) -> np.ndarray:
    """A smooth field, 0 to 1."""
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    spectrum = np.fft.fftn(noise) * np.exp(-300 * sum(np.meshgrid(*[np.fft.fftfreq(n) ** 2 for n in SHAPE], indexing="ij")))
    field = np.fft.ifftn(spectrum).real
    return (field - field.min()) / np.ptp(field)


LABELS = {
    "few": blocks(4),
    "many": blocks(1000, 3),
    "with numbers of their own": 1000 * blocks(40) + 11,
    "negative": blocks(3) - 1,
    "far apart": np.where(blocks(3) == 2, 2**40, blocks(3)),
    "as floats": blocks(9).astype(np.float32),
    "with what a slope leaves": blocks(9) + 1e-5,
    "a mask": blocks(2).astype(np.uint8),
    "a scattered mask": (np.random.default_rng(0).random(SHAPE) < 0.02).astype(np.uint8),
    "a mask of 255": 255 * blocks(2),
    "on air": np.where(smooth() > 0.7, blocks(5) + 1, 0),
}
NOISE = np.random.default_rng(0).standard_normal(SHAPE)
IMAGES = {
    "noise": np.random.default_rng(0).random(SHAPE).astype(np.float32),
    "noise of few values": np.random.default_rng(0).integers(0, 6, SHAPE),
    "8-bit CT on air": np.where(smooth() > 0.5, 90 + 60 * smooth(1) + 4 * NOISE, 0).astype(np.uint8),
    "CT of whole numbers": np.where(smooth() > 0.6, (100 * smooth(1) + 9 * NOISE).round(), -1000),
    "a smooth image of 8 bits": (30 * smooth()).round().astype(np.uint8),
    "weights": smooth().astype(np.float32),
    "a constant": np.full(SHAPE, 3),
    "not finite": np.where(blocks(3) == 1, np.nan, blocks(3)),
    "complex": blocks(3) * 1j,
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels(name):
    known = sorted({round(float(v)) for v in np.unique(LABELS[name])})
    assert labels_in(LABELS[name][None]) == known
    assert labels_in(LABELS[name][None, :, :, :1]) is not None  # a slice


@pytest.mark.parametrize("name", IMAGES)
def test_images(name):
    assert labels_in(IMAGES[name][None]) is None


@pytest.mark.slow
def test_long_series_are_not_looked_through():
    assert labels_in(np.broadcast_to(blocks(4), (10**6, *SHAPE))) == [0, 1, 2, 3]


def tensors(order: tuple[int, ...]) -> np.ndarray:
    """``(6, *SHAPE)`` with xx, xy, xz, yy, yz, zz at these places, zero outside a head."""
    roots = np.random.default_rng(0).standard_normal((*SHAPE, 3, 3))
    full = (roots @ roots.swapaxes(-1, -2)) * (smooth() > 0.5)[..., None, None]
    out = np.zeros((6, *SHAPE), np.float32)
    for place, (i, j) in zip(order, ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)), strict=True):
        out[place] = full[..., i, j]
    return out


@pytest.mark.parametrize(
    ("order", "name"), [((0, 1, 2, 3, 4, 5), "FSL"), ((0, 1, 3, 2, 4, 5), "NIfTI"), ((0, 3, 4, 1, 5, 2), "MRtrix")]
)
def test_tensors(order, name):
    assert vectors_in(tensors(order)) == f"diffusion tensors in the order of {name}"


def test_directions_and_what_is_neither():
    directions = np.random.default_rng(0).standard_normal((3, *SHAPE))
    directions *= (smooth() > 0.5) / np.linalg.norm(directions, axis=0)
    assert vectors_in(directions.astype(np.float32)) == "unit vectors"
    rng = np.random.default_rng(0)
    for other in (rng.random((6, *SHAPE)), rng.random((3, *SHAPE)), rng.normal(size=(6, *SHAPE)), np.zeros((6, *SHAPE))):
        assert vectors_in(other) == ""
    assert vectors_in(directions[:1]) == "" and vectors_in(rng.integers(0, 255, (3, *SHAPE), dtype=np.uint8)) == ""


def test_the_intent_of_a_file_decides_where_there_is_one():
    noise = IMAGES["noise of few values"][None]
    assert labels_in(noise) is None and labels_in(noise, "label") == [0, 1, 2, 3, 4, 5]
    assert labels_in(IMAGES["noise"][None], "label") is None  # no whole numbers
    assert labels_in(LABELS["few"][None], "z score") is None and labels_in(LABELS["few"][None], "neuroname") == [0, 1, 2, 3]
