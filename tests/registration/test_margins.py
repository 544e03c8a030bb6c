# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The margin of air around the foreground: how wide it is, and that a smaller one leaves the balance of the terms as it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from monai_locor.registration import RegistrationConfig, Stage, window_sizes
from monai_locor.registration.batch_step import BatchStep
from monai_locor.registration.pyramid import FOREGROUND_MARGIN
from monai_locor.registration.window_sizes import margins_of

from ..phantoms import grid_of
from .short_runs import engine_of

ISO, THICK = grid_of((60, 60, 60), (2.0, 2.0, 2.0)), grid_of((60, 60, 20), (1.0, 1.0, 6.0))
STAGE = Stage(1, 4, spacing=4)


class TestWidth:
    @pytest.mark.parametrize(("factor", "expected"), [(8, 6), (4, 6), (2, 3), (1, 3)])
    def test_is_smaller_near_full_resolution(self, factor, expected):
        assert margins_of(RegistrationConfig(), ISO, factor) == (expected,) * 3

    @pytest.mark.parametrize(("sigma", "expected"), [(0.3, 3), (1.2, 4), (1.9, 6), (4.0, 6)])
    def test_a_window_at_the_foreground_is_covered(self, sigma, expected):
        assert margins_of(RegistrationConfig(kernel_sigma=sigma), ISO, 1) == (expected,) * 3

    def test_along_every_axis(self):
        """Windows of 6 mm slices are longer within the slices, in samples."""
        assert margins_of(RegistrationConfig(), THICK, 1) == (5, 5, 3)

    def test_is_not_smaller_without_coarse_deformable_stages(self):
        """As in the fine-tuning of a prediction, which may be far off."""
        for stages in ((STAGE,), (Stage(4, 10), STAGE), (Stage(2, 10, spacing=8), STAGE), (Stage(4, 0, spacing=8), STAGE)):
            assert margins_of(RegistrationConfig(stages=stages), ISO, 1) == (FOREGROUND_MARGIN,) * 3
        assert margins_of(RegistrationConfig().with_iterations(25, 2.0), ISO, 1) == (FOREGROUND_MARGIN,) * 3

    def test_of_other_measures_is_the_same_at_all_stages(self):
        config = RegistrationConfig().with_similarity("mutual_information")
        assert {margins_of(config, ISO, factor) for factor in (8, 2, 1)} == {(FOREGROUND_MARGIN,) * 3}


def engine_at(margin: int | None, monkeypatch, masks=(None, None)):
    """An engine in a fine stage, a small anatomy in much air, with windows that are not shifted."""
    if margin is not None:
        monkeypatch.setattr(window_sizes, "MIN_MARGIN", margin)
    axes = np.stack(np.meshgrid(*[np.arange(45.0)] * 3, indexing="ij"))
    inside = np.abs(axes - 22).max(0) < 8  # 15 voxels: a multiple of the distance of the windows
    texture = np.sin(axes * [[[[0.9]]], [[[0.7]]], [[[1.1]]]]).prod(0)
    images = [np.where(inside, 0.6 + scale * texture, 0).astype(np.float32) for scale in (0.4, -0.3)]
    config = dataclasses.replace(RegistrationConfig(), bending_weight=60.0, derivative="none")
    engine = engine_of([torch.from_numpy(i)[None] for i in images], config, masks=masks)
    engine.enter(STAGE)
    engine.losses.eval()
    with torch.no_grad():
        engine.velocity.coefficients.copy_(
            0.1 * torch.randn(engine.velocity.coefficients.shape, generator=torch.manual_seed(1))
        )
    return engine


def gradients(engine) -> list[torch.Tensor]:
    """Of the transform, in a step, before the optimizer."""
    found = []
    engine.optimizer.gradient = lambda: found.extend(p.grad.clone() for p in engine.transform_parameters()) or torch.zeros(1)
    engine.optimizer.step = lambda *_: None
    engine.step()
    return found


@pytest.mark.parametrize("masked", [False, True])
def test_windows_of_air_that_are_left_out_count(monkeypatch, masked):
    """Similarity and bending energy have the balance, and the transform the gradient, of the larger margin."""
    masks = [torch.ones(1, 45, 45, 45) if masked else None for _ in range(2)]
    large, small = (engine_at(margin, monkeypatch, masks=masks) for margin in (6, 3))
    shapes = [e.levels[0].grid.shape for e in (large, small)]
    assert shapes == [(27,) * 3, (21,) * 3] and large.levels[0].share == 1
    assert small.levels[0].share == pytest.approx((21 / 27) ** 3)
    for one, other in zip(gradients(large), gradients(small), strict=True):
        # windows at the border of the samples are cut off; without the share, the similarity would weigh 2.1 times as much
        assert float((one - other).norm()) < 0.15 * float(one.norm())


def test_the_steps_of_a_batch_are_the_same(monkeypatch):
    alone, together = (engine_at(None, monkeypatch) for _ in range(2))
    batch = BatchStep([together], STAGE.iterations)
    values = [(alone.step(), batch.step()) for _ in range(3)]
    for (similarity, bending, *_), (similarities, bendings) in values:
        torch.testing.assert_close(similarity, similarities[0])
        torch.testing.assert_close(bending, bendings[0])
    batch.finish()
    for one, other in zip(alone.transform_parameters(), together.transform_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
