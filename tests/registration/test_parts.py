# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Small parts of a registration: pairs of channels, Gaussian averages, levels and boxes within reach."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, reorder
from monai_locor.geometry.partition import grown
from monai_locor.registration.background import _neighbors, has_noisy_background
from monai_locor.registration.channels import ChannelLosses, compared_parts, single
from monai_locor.registration.pairing import checked_weights, pair_count
from monai_locor.registration.pyramid import _box_of, _eroded, level_grid
from monai_locor.registration.start.prepare import prepare, smoothed, weighted_gaussian
from monai_locor.registration.start.reach import box_within, reached_box

from ..phantoms import ORDERS, grid_of, image, turned

CPU = torch.device("cpu")
SOME_ORDERS = ORDERS[1::9]


class TestPairs:
    def test_the_count_is_symmetric_and_one_goes_with_any_number(self):
        for n in (1, 2, 5):
            assert pair_count(1, n) == pair_count(n, 1) == pair_count(n, n) == n

    def test_other_numbers_are_refused(self):
        with pytest.raises(InputError, match="2 fixed and 3 moving images: give as many of each, or one of either"):
            pair_count(2, 3)

    def test_weights(self):
        assert checked_weights(None, 3) == (1.0, 1.0, 1.0) and checked_weights((1, 2.5), 2) == (1.0, 2.5)
        assert checked_weights(2, 1) == (2.0,)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([1.0], "channel_weights [1.0]: 2 needed, one for each pair of images."),
            ([1.0, 0.0], "channel_weights must be a positive number, got 0.0."),
            ([1.0, "x"], "channel_weights must be a positive number, got 'x'."),
        ],
    )
    def test_weights_that_are_refused(self, weights, message):
        with pytest.raises(InputError, match=re.escape(message)):
            checked_weights(weights, 2)


class Squares(nn.Module):
    """Mean squared difference times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.factor * (pred - target).square().mean()


class TestChannelLosses:
    PRED, TARGET = torch.rand(2, 1, 3, 5, 6, dtype=torch.float64)

    def test_it_is_the_weighted_mean_of_the_pairs(self):
        loss = ChannelLosses([Squares(), Squares(2.0), Squares()], [1.0, 2.0, 3.0])
        parts = [(self.PRED[:, k] - self.TARGET[:, k]).square().mean() for k in range(3)]
        expected = (parts[0] + 2 * 2 * parts[1] + 3 * parts[2]) / 6
        torch.testing.assert_close(loss(self.PRED, self.TARGET), expected)

    def test_only_the_ratio_of_the_weights_counts(self):
        found = [ChannelLosses([Squares()] * 3, [s * w for w in (1, 2, 3)])(self.PRED, self.TARGET) for s in (1.0, 50.0)]
        torch.testing.assert_close(*found)

    def test_equal_pairs_give_the_value_of_one(self):
        three = [x[:, :1].repeat(1, 3, 1, 1) for x in (self.PRED, self.TARGET)]
        found = ChannelLosses([Squares()] * 3, [1.0, 5.0, 0.1])(*three)
        torch.testing.assert_close(found, Squares()(self.PRED[:, :1], self.TARGET[:, :1]))

    def test_pairs_and_weights_permute_together(self):
        order, factors, weights = [2, 0, 1], (1.0, 2.0, 3.0), (0.5, 1.0, 2.0)
        one = ChannelLosses([Squares(f) for f in factors], weights)(self.PRED, self.TARGET)
        other = ChannelLosses([Squares(factors[k]) for k in order], [weights[k] for k in order])
        torch.testing.assert_close(other(self.PRED[:, order], self.TARGET[:, order]), one)

    def test_parts_sum_to_the_loss_also_for_one_loss_alone(self):
        loss = ChannelLosses([Squares(), Squares(2.0), Squares()], [1.0, 2.0, 3.0])
        for whole in (loss, Squares()):
            parts = compared_parts(whole, self.PRED, self.TARGET)
            total = sum(share * part(pred, target) for share, part, pred, target in parts)
            torch.testing.assert_close(total, whole(self.PRED, self.TARGET))
        assert single(loss) is loss.losses[0] and single(loss.losses[1]) is loss.losses[1]


class TestGaussian:
    SIGMA = (1.2, 0.0, 0.7)

    def values(self, *shape: int) -> torch.Tensor:
        return torch.rand(1, *(shape or (9, 6, 8)), dtype=torch.float64)

    def test_constants_are_kept_up_to_the_border(self):
        ones = torch.full((1, 9, 6, 8), 3.5, dtype=torch.float64)
        torch.testing.assert_close(smoothed(ones, self.SIGMA), ones, rtol=1e-6, atol=0)
        average, reached = weighted_gaussian(ones, torch.rand_like(ones) + 0.1, self.SIGMA)
        torch.testing.assert_close(average, ones, rtol=1e-6, atol=0)
        assert bool(reached.all())

    def test_no_smoothing_is_the_identity(self):
        x = self.values()
        torch.testing.assert_close(smoothed(x, (0, 0, 0)), x, rtol=0, atol=0)

    def test_weights_of_one_change_nothing_and_their_scale_does_not_matter(self):
        x = self.values()
        ones, _ = weighted_gaussian(x, torch.ones_like(x), self.SIGMA)
        half, _ = weighted_gaussian(x, torch.full_like(x, 0.5), self.SIGMA)
        torch.testing.assert_close(ones, smoothed(x, self.SIGMA))
        torch.testing.assert_close(half, ones)

    def test_voxels_without_weight_have_no_influence(self):
        x, weight = self.values(), torch.ones(1, 9, 6, 8, dtype=torch.float64)
        weight[:, 3:5, 2:4] = 0
        other = torch.where(weight > 0, x, 1e3)
        torch.testing.assert_close(weighted_gaussian(other, weight, self.SIGMA), weighted_gaussian(x, weight, self.SIGMA))

    def test_inside_it_is_the_gaussian_of_scipy(self):
        x = self.values(41, 7)
        # MONAI integrates the Gaussian over each voxel, SciPy samples it
        expected = ndimage.gaussian_filter1d(x[0].numpy(), 3.0, axis=0, truncate=4.0, mode="constant")
        np.testing.assert_allclose(smoothed(x, (3.0, 0.0))[0, 12:-12].numpy(), expected[12:-12], atol=5e-3)

    @pytest.mark.parametrize(("axes", "flips"), SOME_ORDERS)
    def test_flips_and_permutations_commute_with_it(self, axes, flips):
        x = self.values()
        found = smoothed(reorder(x, axes, flips), [self.SIGMA[a] for a in axes])
        torch.testing.assert_close(found, reorder(smoothed(x, self.SIGMA), axes, flips))

    def test_every_voxel_is_an_average(self):
        x = self.values()
        found = smoothed(x, self.SIGMA)
        assert x.min() <= found.min() and found.max() <= x.max() and found.var() < x.var()


class TestPrepared:
    GRID = turned(0.1, (2.0, 1.5, 3.0), (7, 8, 6))

    @pytest.mark.parametrize(("axes", "flips"), SOME_ORDERS)
    def test_stored_order_comes_back(self, axes, flips):
        values = torch.rand(1, *self.GRID.shape)
        grid = self.GRID.reordered(axes, flips)
        given = image(reorder(values, axes, flips), grid)
        found = prepare(given, None, 0.0, CPU)
        torch.testing.assert_close(
            found.to_stored(found.image) * (values.max() - values.min()) + values.min(), given.as_tensor()
        )
        assert found.stored.shape == grid.shape and found.grid.shape == self.GRID.shape

    def test_channels_are_normalized_each_by_itself(self):
        values = torch.rand(2, *self.GRID.shape) * torch.tensor([1.0, 300.0]).view(2, 1, 1, 1)
        both = prepare(image(values, self.GRID), None, 0.01, CPU).image
        each = [prepare(image(values[k : k + 1], self.GRID), None, 0.01, CPU).image for k in range(2)]
        torch.testing.assert_close(both, torch.cat(each), rtol=0, atol=0)

    def test_weights_are_clamped_and_outside_does_not_change_the_range(self):
        values, weight = torch.rand(1, *self.GRID.shape), torch.ones(1, *self.GRID.shape)
        weight[:, :2] = 0
        values[:, :2] = 1e6
        found = prepare(image(values, self.GRID), 3 * weight, 0.0, CPU)
        assert found.weight.unique().tolist() == [0, 1]
        assert found.image[found.weight > 0].min() == 0 and found.image[found.weight > 0].max() == 1

    def test_outliers_are_limited_a_quarter_beyond_the_range(self):
        values = torch.rand(1, *self.GRID.shape)
        values[0, 1, 2, 3], values[0, 3, 2, 1] = 1e6, -1e6
        found = prepare(image(values, self.GRID), None, 0.01, CPU).image
        assert (float(found.min()), float(found.max())) == (-0.25, 1.25)


class TestLevels:
    @pytest.mark.parametrize("factor", [1, 2, 3.5, 8])
    @pytest.mark.parametrize(("axes", "flips"), SOME_ORDERS)
    def test_the_grid_of_a_level_permutes_with_the_image(self, factor, axes, flips):
        grid = turned(0.2, (1.0, 1.5, 4.0), (50, 40, 20))
        found, expected = level_grid(grid.reordered(axes, flips), factor), level_grid(grid, factor).reordered(axes, flips)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-9)

    def test_samples_never_get_denser_with_the_factor(self):
        grid = grid_of((50, 40, 20), (1.0, 1.5, 4.0))
        numbers = [int(np.prod(level_grid(grid, f).shape)) for f in (1, 1.5, 2, 3, 4, 8, 16, 100)]
        assert numbers == sorted(numbers, reverse=True) and numbers[-1] == 8**3

    @pytest.mark.parametrize("scale", [0.01, 100.0])
    def test_the_unit_of_length_does_not_matter(self, scale):
        """The same shape for a mouse and a man."""
        grid = grid_of((50, 40, 20), (1.0, 1.5, 4.0))
        other = Grid(grid.shape, np.diag([scale] * 3 + [1.0]) @ grid.affine)
        assert level_grid(other, 3).shape == level_grid(grid, 3).shape

    def test_the_box_holds_all_that_is_seen_and_a_margin(self):
        seen = torch.zeros(40, 30, dtype=torch.bool)
        seen[10, 12] = seen[20, 3] = True
        assert grown(_box_of(seen), seen.shape, 6) == (slice(4, 27), slice(0, 19))
        assert grown(_box_of(seen), seen.shape, (3, 1)) == (slice(7, 24), slice(2, 14))
        assert grown(_box_of(seen.T), seen.T.shape, 6) == (slice(0, 19), slice(4, 27))
        assert grown(_box_of(torch.zeros(5, 6, dtype=torch.bool)), (5, 6), 3) == (slice(0, 5), slice(0, 6))

    def test_erosion_is_a_minimum_filter_and_leaves_other_axes(self):
        weight = torch.rand(1, 7, 6, 5)
        for axes in ([], [0], [1, 2], [0, 1, 2]):
            size = tuple(3 if axis in axes else 1 for axis in range(3))
            expected = ndimage.minimum_filter(weight[0].numpy(), size=size, mode="nearest")
            np.testing.assert_array_equal(_eroded(weight, axes)[0].numpy(), expected)


class TestReach:
    LONG, SHORT = grid_of((30, 30, 200), (2.0, 2.0, 2.0)), grid_of((30, 30, 20), (2.0, 2.0, 2.0), (0, 0, 30.3))

    def test_a_larger_margin_never_reaches_less(self):
        sizes = [np.prod([b.stop - b.start for b in reached_box(self.LONG, self.SHORT, np.eye(4), d)]) for d in (0, 5, 50, 999)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[1] and sizes[-1] == np.prod(self.LONG.shape)

    @pytest.mark.parametrize(("axes", "flips"), SOME_ORDERS)
    def test_the_same_voxels_in_every_storage_order(self, axes, flips):
        box = reached_box(self.LONG, self.SHORT, np.eye(4))
        other = reached_box(self.LONG.reordered(axes, flips), self.SHORT, np.eye(4))
        chosen = torch.zeros(1, *self.LONG.shape)
        chosen[(slice(None), *box)] = 1
        expected = reorder(chosen, axes, flips)
        found = torch.zeros_like(expected)
        found[(slice(None), *other)] = 1
        assert torch.equal(found, expected)
        again = reached_box(self.LONG, self.SHORT.reordered(axes, flips), np.eye(4))
        assert again == box

    def test_moving_the_other_field_of_view_moves_the_box(self):
        start = np.eye(4)
        start[2, 3] = 20.0
        one, two = (reached_box(self.LONG, self.SHORT, matrix)[2] for matrix in (np.eye(4), start))
        assert (two.start - one.start, two.stop - one.stop) == (10, 10)

    def test_views_that_are_apart_leave_nothing(self):
        start = np.eye(4)
        start[2, 3] = 5000
        assert any(b.stop <= b.start for b in reached_box(self.LONG, self.SHORT, start))

    def test_a_part_is_found_in_its_whole(self):
        grid, box = turned(0.3, (1.0, -2.0, 3.0), (9, 8, 7)), (slice(2, 5), slice(0, 8), slice(6, 7))
        assert box_within(grid.cropped(box), grid) == box


class TestBackground:
    def head(self, noisy: bool, seed: int = 0) -> torch.Tensor:
        """A smooth ball, in noise over the same range or in air."""
        rng = np.random.default_rng(seed)
        points = grid_of((40, 36, 32), (1.0, 1.0, 1.0)).points()
        radius = np.linalg.norm(points, axis=-1)
        inside = 0.5 + 0.5 * np.cos(points.sum(-1) / 8)
        outside = rng.random(radius.shape) if noisy else 0.02 * rng.random(radius.shape)
        return torch.from_numpy(np.where(radius < 15, inside, outside)).float()[None]

    @pytest.mark.parametrize("noisy", [False, True])
    def test_noise_over_the_whole_range_is_found_in_every_order_and_scale(self, noisy):
        given = self.head(noisy)
        for other in (given, given.flip(1, 3), given.transpose(1, 2), -300 * given + 7, given.double()):
            assert has_noisy_background(other) == noisy

    def test_noise_everywhere_and_constants_are_no_background(self):
        assert not has_noisy_background(torch.rand(1, 40, 36, 32))
        assert not has_noisy_background(torch.ones(1, 40, 36, 32)) and not has_noisy_background(torch.rand(1, 5, 5, 5))

    def test_correlation_of_neighbors(self):
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((30, 30, 30))
        assert abs(_neighbors(noise - noise.mean())) < 0.05
        ramp = np.linspace(-1, 1, 30)[:, None] * np.ones((1, 30))
        assert _neighbors(ramp) > 0.9 and _neighbors(np.zeros((4, 4))) == 1
        board = np.indices((10, 10)).sum(0) % 2 * 2.0 - 1
        assert _neighbors(board) == pytest.approx(-1)
