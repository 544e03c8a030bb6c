# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Thick slices: control points and smoothness follow the samples, wherever the thick axis lies and whichever image has it."""

from __future__ import annotations

import numpy as np
import pytest

from monai_locor.geometry import Grid
from monai_locor.registration import RegistrationConfig, RegistrationEngine, Stage
from monai_locor.registration.window_sizes import WindowSizes, window_sizes

from ..phantoms import grid_of, image, pair
from .short_runs import SHORT, engine_of, errors, run

THICK = 6.0  # mm; the other voxel sides are 2 mm


def thick_grid(axis: int | None) -> Grid:
    """A field of view of about 64 mm with thick slices along one axis, or none."""
    spacing = np.where(np.arange(3) == axis, THICK, 2.0)
    return grid_of(tuple((66 / spacing).astype(int)), tuple(spacing))


def entered(fixed: Grid, moving: Grid, stage: Stage) -> RegistrationEngine:
    noise = [image(np.random.default_rng(0).random(g.shape), g) for g in (fixed, moving)]
    engine = engine_of(noise, RegistrationConfig(region="image"))
    engine.enter(stage)
    return engine


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thick", ["fixed", "moving", "both"])
def test_between_control_points_are_as_many_samples_along_every_axis(axis, thick):
    grids = [thick_grid(axis if thick in (role, "both") else None) for role in ("fixed", "moving")]
    velocity = entered(*grids, Stage(1, 1, spacing=4)).velocity
    np.testing.assert_allclose(velocity.spacing, np.where(np.arange(3) == axis, 24, 8), rtol=1e-6)
    assert velocity.unit == 8


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_bending_weight_counts_samples(factor):
    """In mm, the weight is that of isotropic voxels with samples of the same volume."""
    thick, thin = (entered(*[thick_grid(axis)] * 2, Stage(factor, 1, spacing=4 * factor)) for axis in (2, None))
    weights = [e.bending_weight * e.velocity.step**2 for e in (thick, thin)]
    step = 2.0 * factor
    volumes = [step**2 * max(step, THICK), step**3]
    assert weights[0] / weights[1] == pytest.approx((volumes[0] / volumes[1]) ** (2 / 3), rel=1e-5)


class TestWindows:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("factor", [1, 2])
    def test_are_isotropic_and_have_as_many_samples(self, axis, factor):
        config = RegistrationConfig()
        step = np.where(np.arange(3) == axis, max(2.0 * factor, THICK), 2.0 * factor)
        sizes = window_sizes(config, thick_grid(axis), factor)
        side = np.prod(step) ** (1 / 3)
        np.testing.assert_allclose(sizes.sigma * step, config.kernel_sigma * side, rtol=1e-5)
        np.testing.assert_allclose(sizes.stride * step, config.stride * side, rtol=1e-5)
        assert np.prod(sizes.sigma) == pytest.approx(config.kernel_sigma**3, rel=1e-5)

    def test_of_isotropic_images_are_those_of_the_settings(self):
        config = RegistrationConfig(kernel_sigma=0.7, stride=2.5)
        for factor in (1, 4, 8):
            assert window_sizes(config, thick_grid(None), factor) == WindowSizes((0.7,) * 3, (2.5,) * 3)

    def test_are_not_closer_than_samples(self):
        thick = grid_of((64, 64, 8), (1.0, 1.0, 8.0))
        assert window_sizes(RegistrationConfig(stride=3), thick, 1).stride == pytest.approx((6, 6, 1))
        assert min(window_sizes(RegistrationConfig(stride=0.5), thick, 1).stride) == 0.5

    def test_a_single_slice_has_no_thickness(self):
        one = window_sizes(RegistrationConfig(), grid_of((40, 40, 1), (1.0, 1.0, 6.0)), 1)
        assert one == WindowSizes((0.8,) * 3, (3.0,) * 3)

    def test_each_direction_has_those_of_its_reference_image(self):
        engine = entered(thick_grid(2), thick_grid(None), Stage(1, 1, spacing=4))
        fixed, moving = (window_sizes(engine.config, thick_grid(axis), 1) for axis in (2, None))
        assert [(loss.kernel_sigma, loss.stride) for loss in engine.losses] == [
            (fixed.sigma, fixed.stride),
            (moving.sigma, moving.stride),
        ]


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(2, 2), (0, None), (None, 1)], ids=["both", "fixed", "moving"])
def test_the_deformation_is_found(axes):
    images = pair(*[thick_grid(axis) for axis in axes])
    before, after = errors(run(*images[:2], SHORT), images[2])
    assert before > 2 and after < before / 3
