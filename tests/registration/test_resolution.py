# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The width of edges: that of the blur, in mm, whatever the grid, the storage order, the offset and the field of view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from monai_locor.geometry import Grid
from monai_locor.registration import PRESETS, RegistrationConfig, Stage
from monai_locor.registration import run as run_module
from monai_locor.registration.resolution import (
    MAX_SHARP_WIDTH,
    edge_width,
    edge_widths,
    relative_blur,
    resolved_stages,
    smoother,
)
from monai_locor.registration.start.prepare import prepare

from ..phantoms import ORDERS, grid_of, image
from .short_runs import run

SPACING = (1.0, 2.0, 1.5)
BLUR = (3.0, 4.0, 6.0)  # mm, standard deviation


def blurred_blocks(blur=BLUR, spacing=SPACING, shape=(64, 56, 60)) -> tuple[np.ndarray, Grid]:
    """Sharp blocks of random intensity, blurred by a Gaussian, and their grid."""
    sharp = np.random.default_rng(0).random((4, 4, 4)).repeat(16, 0).repeat(16, 1).repeat(16, 2)
    return gaussian_filter(sharp[tuple(slice(n) for n in shape)], np.array(blur) / spacing), grid_of(shape, spacing)


def prepared(values: np.ndarray, grid: Grid, weight: torch.Tensor | None = None):
    return prepare(image(values, grid), weight, 1e-3, torch.device("cpu"))


def test_is_that_of_the_blur_along_each_axis():
    values, grid = blurred_blocks()
    widths = edge_widths(prepared(values, grid))
    np.testing.assert_allclose(widths, BLUR, rtol=0.25)
    assert edge_width(prepared(values, grid)) == widths.min()


def test_of_sharp_edges_is_below_a_voxel():
    sharp, grid = blurred_blocks(blur=(0.01,) * 3)
    assert (edge_widths(prepared(sharp, grid)) < np.array(SPACING)).all()


def test_does_not_depend_on_intensity_scale():
    values, grid = blurred_blocks()
    np.testing.assert_allclose(edge_widths(prepared(1e3 - 40 * values, grid)), edge_widths(prepared(values, grid)), rtol=1e-3)


@pytest.mark.parametrize("order", ORDERS[::7], ids=str)
def test_does_not_depend_on_the_order_of_the_axes(order):
    axes, flips = order
    values, grid = blurred_blocks()
    stored = image(np.flip(values.transpose(axes), [k for k in range(3) if flips[k]]).copy(), grid.reordered(axes, flips))
    found = edge_widths(prepare(stored, None, 1e-3, torch.device("cpu")))
    np.testing.assert_allclose(found, edge_widths(prepared(values, grid)), rtol=1e-5)


def test_a_sharp_border_of_the_field_of_view_hardly_matters():
    values, grid = blurred_blocks()
    cut = values.copy()
    cut[:5], cut[:, :3] = 0, 0
    np.testing.assert_allclose(edge_widths(prepared(cut, grid)), edge_widths(prepared(values, grid)), rtol=0.4)


def test_noise_makes_edges_sharper():
    values, grid = blurred_blocks()
    noisy = values + np.random.default_rng(1).normal(0, 0.1, values.shape)
    assert (edge_widths(prepared(noisy, grid)) < edge_widths(prepared(values, grid))).all()


def test_of_the_part_inside_a_mask():
    """The sharp half is masked out; its extrapolation is not measured."""
    values, grid = blurred_blocks()
    half = values.copy()
    half[:32] = np.random.default_rng(2).random((32, *values.shape[1:]))
    weight = torch.ones(1, *values.shape)
    weight[:, :32] = 0
    assert edge_width(prepared(half, grid)) < 1
    np.testing.assert_allclose(edge_widths(prepared(half, grid, weight)), BLUR, rtol=0.3)


def test_without_contrast_or_with_a_single_slice():
    flat = np.ones((12, 12, 12))
    np.testing.assert_array_equal(edge_widths(prepared(flat, grid_of(flat.shape))), 0)
    values, _ = blurred_blocks()
    one = grid_of((64, 56, 1), SPACING)
    widths = edge_widths(prepared(values[:, :, 20:21], one))
    assert np.isinf(widths[2]) and np.isfinite(widths[:2]).all()


def test_of_several_channels_is_that_of_the_sharpest():
    values, grid = blurred_blocks()
    sharp, _ = blurred_blocks(blur=(0.5,) * 3)
    both = prepared(np.stack((values, sharp)), grid)
    np.testing.assert_allclose(edge_widths(both), edge_widths(prepared(sharp, grid)), rtol=1e-3)


def test_in_two_dimensions():
    plane, grid = blurred_blocks()[0][:, :, 20], grid_of((64, 56), SPACING[:2])
    np.testing.assert_allclose(edge_widths(prepared(plane, grid)), BLUR[:2], rtol=0.4)


class TestPairs:
    def test_the_more_blurred_image_counts_in_larger_voxels(self):
        blurred, grid = blurred_blocks(spacing=(2.0,) * 3, blur=(5.0,) * 3)
        sharp, fine = blurred_blocks(spacing=(1.0,) * 3, blur=(0.5,) * 3)
        images = prepared(blurred, grid), prepared(sharp, fine)
        assert relative_blur(*images) == relative_blur(*images[::-1]) == edge_width(images[0]) / 2

    def test_of_sharp_images_nothing_changes(self):
        config = PRESETS["intersubject"]
        assert smoother(config, MAX_SHARP_WIDTH, 3) is config
        assert resolved_stages(config, config.stages[4:], MAX_SHARP_WIDTH) == config.stages[4:]

    def test_interpolation_to_half_the_voxel_size_divides_the_weight_by_the_share_of_samples(self):
        config = PRESETS["intersubject"]
        for dims in (2, 3):
            weights = [smoother(config, blur, dims).effective_bending_weight for blur in (1.5, 3.0)]
            assert weights[1] / weights[0] == pytest.approx(2**dims)

    def test_settings_of_the_user_stay(self):
        own = RegistrationConfig(bending_weight=33.0, stages=(Stage(4, 5, spacing=8), Stage(2, 5, spacing=8), Stage(1, 5)))
        assert smoother(own, 3.0, 3) is own
        assert resolved_stages(own, own.stages[1:], 3.0) == own.stages[1:]

    @pytest.mark.parametrize("blur", [1.0, 2.5])
    def test_a_registration_with_large_residuals_follows_it(self, blur, monkeypatch):
        monkeypatch.setattr(run_module, "leaves_too_much", lambda share, bending: True)
        monkeypatch.setattr(run_module, "relative_blur", lambda *images: blur)
        stages = tuple(Stage(s.factor, 1, s.spacing) for s in PRESETS["draft"].stages[2:])
        monkeypatch.setattr("monai_locor.registration.resolution.PRESET_STAGES", (stages,))
        values, grid = blurred_blocks(shape=(24, 22, 20))
        config = RegistrationConfig(stages=stages, affine=False, multistart="never")
        found = run(image(values, grid), image(1 - values, grid), preset=config)
        factors = [s["factor"] for s in found.history]
        assert found.intersubject and factors == ([4, 4, 2, 1] if blur == 1 else [4, 4, 2])
