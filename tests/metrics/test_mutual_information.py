# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Normalized mutual information: its ends, its invariances, and what it ignores."""

from __future__ import annotations

import pytest
import torch

from monai_locor.metrics import normalized_mutual_information


def image(seed: int) -> torch.Tensor:
    return torch.rand(1, 24, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_the_same_image_reaches_two_and_noise_nearly_one():
    assert normalized_mutual_information(image(0), image(0)) == pytest.approx(2)
    assert 1 <= normalized_mutual_information(image(0), image(1)) < 1.05


def test_only_order_of_intensities_and_sides_does_not_matter():
    blurred = image(0) + 0.3 * image(1)
    value = normalized_mutual_information(image(0), blurred)
    assert normalized_mutual_information(blurred, image(0)) == pytest.approx(value)
    assert normalized_mutual_information(5 - 3 * image(0), blurred) == pytest.approx(value, rel=1e-3)


def test_what_lies_outside_the_mask_is_ignored():
    other, mask = image(0).clone(), torch.ones(24, 24, 24)
    other[:, :4], mask[:4] = 1e6, 0
    assert normalized_mutual_information(image(0), other, mask) == pytest.approx(2)


def test_one_hot_or_undefined_voxel_changes_little():
    blurred = image(0) + 0.3 * image(1)
    broken = blurred.clone()
    broken[0, 0, 0, 0], broken[0, 1, 1, 1] = 1e6, float("nan")
    value = normalized_mutual_information(image(0), blurred)
    assert normalized_mutual_information(image(0), broken) == pytest.approx(value, rel=1e-3)


def test_constant_images_and_empty_masks():
    assert normalized_mutual_information(torch.ones(1, 4, 4), torch.ones(1, 4, 4)) != 2
    with pytest.raises(ValueError, match="two voxels"):
        normalized_mutual_information(image(0), image(1), torch.zeros(24, 24, 24))
    with pytest.raises(ValueError, match="differ"):
        normalized_mutual_information(image(0), image(1)[:, :5])
