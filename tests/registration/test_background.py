# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images whose air is noise of full range, as MP2RAGE's, and all the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig
from monai_locor.registration import load_pair
from monai_locor.registration.background import has_noisy_background
from monai_locor.registration.start.prepare import smoothed

SHAPES = [(48, 40, 44), (64, 56), (48, 40, 9), (44, 36)]


def head(shape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Smooth tissue of 0.2 to 1 and where it is."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) if n > 12 else np.zeros(n) for n in shape], indexing="ij")
    inside = sum(a**2 for a in axes) < 0.55
    tissue = smoothed(torch.from_numpy(rng.standard_normal((1, *shape))).float(), [2.5] * len(shape))[0].numpy()
    return 0.6 + 0.4 * np.tanh(4 * tissue / tissue.std() / 2), inside


def of(values: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None])


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_of_full_range_around_a_head_is_found(shape):
    rng = np.random.default_rng(0)
    tissue, inside = head(shape, rng)
    first, second = rng.standard_normal((2, *shape)), rng.standard_normal((2, *shape))
    uniform = (first * second).sum(0) / ((first**2).sum(0) + (second**2).sum(0)) + 0.5  # MP2RAGE's combination of noise
    assert has_noisy_background(of(np.where(inside, tissue, uniform)))
    assert has_noisy_background(of(4095 * np.where(inside, tissue, rng.random(shape)) - 7))


@pytest.mark.parametrize("shape", SHAPES)
def test_other_images_are_left_alone(shape):
    rng = np.random.default_rng(1)
    tissue, inside = head(shape, rng)
    noise = 0.03 * np.hypot(*rng.standard_normal((2, *shape)))  # of a magnitude image
    smooth = smoothed(torch.from_numpy(rng.standard_normal((1, *shape))).float(), [2.0] * len(shape))[0].numpy()
    for values in (
        np.where(inside, tissue, 0),
        np.where(inside, tissue, noise),
        np.where(inside, 40 + 40 * tissue, -1000),  # CT
        tissue,  # cropped to the organ
        smooth,
        rng.random(shape),  # nothing but noise: a mask would not help
        inside.astype(float),
        np.where(inside, np.round(5 * tissue), 0),  # labels
        np.zeros(shape),
    ):
        assert not has_noisy_background(of(values))


def test_it_is_said_with_the_option_that_helps_unless_there_is_a_mask(caplog):
    rng = np.random.default_rng(0)
    tissue, inside = head(SHAPES[0], rng)
    noisy, plain = of(np.where(inside, tissue, rng.random(SHAPES[0]))), of(np.where(inside, 1 - tissue, 0))
    noisy.meta["filename_or_obj"] = "uni.nii.gz"
    load_pair(plain, noisy, RegistrationConfig())
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("moving image uni.nii.gz: its background is noise") and "--moving-mask" in line
    caplog.clear()
    load_pair(plain, noisy, RegistrationConfig(), moving_mask=of(inside))
    load_pair(plain, plain, RegistrationConfig())
    assert not caplog.records
