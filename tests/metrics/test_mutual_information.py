# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Normalised mutual information: its ends, its invariances, and what it ignores."""

from __future__ import annotations

import pytest
import torch

from monai_locor.metrics import normalised_mutual_information


def image(seed: int) -> torch.Tensor:
    return torch.rand(1, 24, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_the_same_image_reaches_two_and_noise_nearly_one():
    assert normalised_mutual_information(image(0), image(0)) == pytest.approx(2)
    assert 1 <= normalised_mutual_information(image(0), image(1)) < 1.05


def test_only_order_of_intensities_and_sides_does_not_matter():
    blurred = image(0) + 0.3 * image(1)
    value = normalised_mutual_information(image(0), blurred)
    assert normalised_mutual_information(blurred, image(0)) == pytest.approx(value)
    assert normalised_mutual_information(5 - 3 * image(0), blurred) == pytest.approx(value, rel=1e-3)


def test_what_lies_outside_the_mask_is_ignored():
    other, mask = image(0).clone(), torch.ones(24, 24, 24)
    other[:, :4], mask[:4] = 1e6, 0
    assert normalised_mutual_information(image(0), other, mask) == pytest.approx(2)


def test_one_hot_or_undefined_voxel_changes_little():
    blurred = image(0) + 0.3 * image(1)
    broken = blurred.clone()
    broken[0, 0, 0, 0], broken[0, 1, 1, 1] = 1e6, float("nan")
    value = normalised_mutual_information(image(0), blurred)
    assert normalised_mutual_information(image(0), broken) == pytest.approx(value, rel=1e-3)


def test_constant_images_and_empty_masks():
    assert normalised_mutual_information(torch.ones(1, 4, 4), torch.ones(1, 4, 4)) != 2
    with pytest.raises(ValueError, match="two voxels"):
        normalised_mutual_information(image(0), image(1), torch.zeros(24, 24, 24))
    with pytest.raises(ValueError, match="differ"):
        normalised_mutual_information(image(0), image(1)[:, :5])
