# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The options that losses share: one check for all of them."""

from __future__ import annotations

import math

import pytest

from monai_locor.losses import LocalNCCLoss, MutualInformationLoss
from monai_locor.losses.options import check_options


@pytest.mark.parametrize(
    "option",
    [
        {"eps": 0},
        {"stride": (1, -2)},
        {"memory_budget_mb": math.inf},
        {"min_mass": 0},
        {"min_mass": 1.5},
        {"quantile": 0.5},
        {"spacing": 2.5},
    ],
    ids=str,
)
def test_the_error_names_option_and_value(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=name) as caught:
        check_options(**option)
    assert str(value) in str(caught.value)


def test_allowed_values():
    check_options(eps=1e-9, stride=(1, 2.5), memory_budget_mb=None, min_mass=1, quantile=0, spacing=4.0, num_patches=None)
    check_options(rescale=False, generator=None, kernel_type="gaussian")  # not checked here


def test_options_of_all_groups_are_attributes():
    loss = MutualInformationLoss(2, num_bins=9, sigma_ratio=0.7, quantile=0.1, freeze_range=True, eps=0.5)
    assert (loss.num_bins, loss.sigma_ratio, loss.quantile, loss.freeze_range, loss.eps) == (9, 0.7, 0.1, True, 0.5)
    assert (LocalNCCLoss(2, stride=(2, 3), min_mass=0.5).stride, LocalNCCLoss(2).memory_budget_mb) == ((2, 3), None)
