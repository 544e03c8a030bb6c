# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""In large pictures, windows are wider and deformations smoother in proportion."""

import dataclasses

import pytest
import torch

from monai_locor.registration import RegistrationConfig
from monai_locor.registration.window_sizes import relative_window_size
from tests.phantoms import grid_of, image
from tests.registration.short_runs import TINY, engine_of

LARGE, SMALL, VOLUME = grid_of((300, 24), (1.0, 1.0)), grid_of((250, 24), (1.0, 1.0)), grid_of((300, 12, 12), (1.0, 1.0, 1.0))


def bending_weight(grid, config: RegistrationConfig) -> float:
    """Of an engine in its last stage, in units of the squared sample distance."""
    generator = torch.Generator().manual_seed(0)
    engine = engine_of([image(torch.rand(grid.shape, generator=generator), grid)] * 2, config)
    engine.enter(config.stages[-1])
    return engine.bending_weight / engine.bending_unit


@pytest.mark.parametrize(("grid", "wider"), [(LARGE, 1.347), (SMALL, 0.8), (VOLUME, 0.8)], ids=["large", "small", "volume"])
@pytest.mark.parametrize("weight", [None, 7.0])
def test_the_bending_energy_has_more_weight_where_windows_are_wider(grid, wider, weight):
    config = dataclasses.replace(TINY, bending_weight=weight)
    assert relative_window_size(config, grid) == pytest.approx(wider / 0.8, rel=1e-3)
    expected = config.effective_bending_weight * (wider / 0.8) ** 2
    assert bending_weight(grid, config) == pytest.approx(expected, rel=2e-3)


def test_the_robust_form_as_well():
    config = RegistrationConfig().for_intersubject
    assert relative_window_size(config, LARGE) == pytest.approx(config.window_sigma(2, 300) / 1.3)
    assert relative_window_size(config, VOLUME) == 1


def test_other_measures_keep_their_weight():
    config = dataclasses.replace(TINY, similarity="normalized_mutual_information")
    assert relative_window_size(config, LARGE) == 1
    assert bending_weight(LARGE, config) == pytest.approx(config.effective_bending_weight)
