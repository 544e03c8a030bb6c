# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Samples of a pair, shifted comparisons, label overlap and thresholds: what must not depend on storage, scale or names."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, apply_affine
from monai_locor.quality import Thresholds
from monai_locor.quality.alignment import _bins, _blocks, _directions, _entropy, local_fit, shifted_information_ratio
from monai_locor.quality.labels import LabelOverlap, label_overlap
from monai_locor.quality.orientation import orientation_ratios
from monai_locor.quality.samples import MIN_VALID_SAMPLES, SampledPair, every_nth, mutual_information

from ..phantoms import ORDERS, anatomy, grid_of, image, other_modality, turned

PLANE = grid_of((40, 44), (2.0, 2.0))
OBLIQUE = turned(0.4, (1.5, -2.0), (44, 40))


def sampled(shift=(0.0, 0.0), fixed: Grid = PLANE, moving: Grid = PLANE, **weights) -> SampledPair:
    """Two modalities of one anatomy and a constant displacement, mm."""
    images = [image(other_modality(anatomy(fixed.points())), fixed), image(anatomy(moving.points()), moving)]
    field = torch.tensor(shift).view(2, 1, 1).expand(2, *fixed.shape)
    return SampledPair.of(images[0], fixed, images[1], moving, field, **weights)


class TestEveryNth:
    @pytest.mark.parametrize("count", [10, 100, 500, 10**6])
    @pytest.mark.parametrize("grid", [turned(0.3, (1.0, 2.0, -4.0), (20, 14, 8)), PLANE], ids=["3-D", "2-D"])
    def test_the_grid_holds_the_positions_of_the_kept_voxels(self, grid, count):
        cut, kept = every_nth(grid, count)
        np.testing.assert_allclose(kept.points(), grid.points()[cut[1:]], atol=1e-9)
        assert np.prod(kept.shape) <= 1.5 * count

    def test_few_voxels_are_all_kept(self):
        cut, kept = every_nth(PLANE, 10**6)
        assert kept.shape == PLANE.shape and cut[1:] == (slice(0, None, 1),) * 2

    def test_the_finest_axis_is_thinned_first(self):
        grid = grid_of((60, 60, 10), (1.0, 1.0, 5.0))
        _, kept = every_nth(grid, 60 * 60 * 10 // 9)
        assert kept.spacing[2] == 5 and kept.spacing[:2].min() >= 2

    def test_what_is_left_out_is_split_between_both_ends(self):
        cut, kept = every_nth(grid_of((100, 100), (1.0, 1.0)), 400)
        for part, n in zip(cut[1:], kept.shape):
            before, after = part.start, 99 - (part.start + (n - 1) * part.step)
            assert abs(before - after) <= 1


class TestReadings:
    def test_the_identity_reads_the_voxels(self):
        pair = sampled()
        values, valid = pair.read()
        np.testing.assert_allclose(values, anatomy(PLANE.points()), atol=1e-5)
        assert valid.all()

    def test_an_offset_and_a_displacement_are_the_same(self):
        there, back = sampled((3.0, -5.0)).read(), sampled().read(np.array([3.0, -5.0]))
        np.testing.assert_allclose(there[0], back[0], atol=1e-4)
        np.testing.assert_array_equal(there[1], back[1])

    def test_an_affine_is_read_as_its_displacement(self):
        matrix = np.eye(3)
        matrix[:2, 2] = 3.0, -5.0
        found, expected = sampled().read_affine(matrix), sampled((3.0, -5.0)).read()
        np.testing.assert_allclose(found[0], expected[0], atol=1e-4)

    def test_the_grid_of_the_moving_image_does_not_matter(self):
        """The same anatomy on an oblique grid gives nearly the same values at the same world positions."""
        here, there = sampled((2.0, 1.0)).read(), sampled((2.0, 1.0), moving=OBLIQUE).read()
        both = here[1] & there[1]
        assert both.float().mean() > 0.6
        assert (here[0] - there[0])[both].abs().max() < 0.25

    def test_several_shifts_are_read_as_one_by_one(self):
        pair, shifts = sampled((1.0, 2.0)), np.array([[0.0, 0.0], [3.0, -5.0], [-90.0, 0.5]])
        values, valid = pair.read_shifted(shifts)
        for shift, *found in zip(shifts, values, valid):
            torch.testing.assert_close(found, [*pair.read(shift)])

    def test_points_outside_are_not_valid(self):
        _, valid = sampled((0.6 * 2, 0.0)).read()
        assert not valid[-1].any() and valid[:-1].all()

    def test_masks_and_values_that_are_not_finite_are_not_valid(self):
        weight = torch.ones(1, *PLANE.shape)
        weight[:, :10] = 0
        assert not sampled(fixed_weight=weight).read()[1][:10].any()
        assert not sampled(moving_weight=weight).read()[1][:10].any()
        assert sampled(moving_weight=weight).read()[1][10:].all()


class TestMutualInformation:
    def test_too_few_samples_are_no_number(self):
        weight = torch.zeros(1, *PLANE.shape)
        weight.view(-1)[: MIN_VALID_SAMPLES - 1] = 1
        pair = sampled(fixed_weight=weight)
        assert math.isnan(mutual_information(pair, [pair.read()])[0])
        weight.view(-1)[MIN_VALID_SAMPLES - 1] = 1
        pair = sampled(fixed_weight=weight)
        assert math.isfinite(mutual_information(pair, [pair.read()])[0])

    def test_only_samples_valid_in_all_readings_count(self):
        """A reading is compared on the same samples as the others, and so its value depends on them."""
        pair = sampled()
        near, far = pair.read(), pair.read(np.array([40.0, 0.0]))
        cut = (near[0], near[1] & far[1])
        assert mutual_information(pair, [near, far])[0] == mutual_information(pair, [cut])[0]

    def test_identity_is_the_best_and_equal_readings_score_the_same(self):
        pair = sampled()
        found = mutual_information(pair, [pair.read(), pair.read(), pair.read(np.array([6.0, 0.0]))])
        assert found[0] == found[1] > found[2] + 0.02


def _mapped(pair: SampledPair, matrix: np.ndarray) -> torch.Tensor:
    """The points of a pair after an affine map in world space."""
    to_world = pair.moving_grid.affine
    change = torch.from_numpy(np.linalg.inv(to_world) @ matrix @ to_world).float()
    return torch.einsum("ij,j...->i...", change[:-1, :-1], pair.points) + change[:-1, -1].reshape(-1, 1, 1)


class TestAlignment:
    def test_an_aligned_pair_beats_its_shifted_copies_and_a_shifted_one_does_not(self):
        for shift, low, high in (((0.0, 0.0), 1.5, 99.0), ((12.0, 0.0), 0.0, 1.2)):
            pair = sampled(shift)
            assert low < shifted_information_ratio(pair, pair.read()) < high

    @pytest.mark.parametrize(("axes", "flips"), [((1, 0), (False, True)), ((0, 1), (True, True))])
    def test_the_storage_order_does_not_matter(self, axes, flips):
        """Shifts are along world axes."""
        one, other = sampled((1.0, 0.5)), sampled((1.0, 0.5), moving=PLANE.reordered(axes, flips))
        found, expected = (shifted_information_ratio(pair, pair.read()) for pair in (other, one))
        assert found == pytest.approx(expected, rel=1e-3)

    def test_gain_offset_and_sign_of_either_image_change_nothing(self):
        grid = grid_of((128, 120), (0.8, 0.8))
        pair = sampled((0.0, 0.0), grid, grid)
        one = local_fit(pair, pair.read())
        assert one["local_support"] > 0.5 and one["support_blocks"] >= 8 and one["near_contrast"] > 1.1
        scaled = replace(pair, fixed=-3 * pair.fixed + 7, moving=0.5 * pair.moving - 2)
        other = local_fit(scaled, scaled.read())
        assert other["support_blocks"] == one["support_blocks"]
        assert abs(other["local_support"] - one["local_support"]) <= 1 / one["support_blocks"]
        for name in ("near_contrast", "far_contrast"):
            assert other[name] == pytest.approx(one[name], rel=0.02)

    def test_without_enough_samples_there_is_no_answer(self):
        pair = sampled(fixed_weight=torch.zeros(1, *PLANE.shape))
        assert math.isnan(shifted_information_ratio(pair, pair.read()))
        assert all(math.isnan(value) for value in orientation_ratios(pair, pair.read()).values())
        found = local_fit(pair, pair.read())
        assert found.pop("support_blocks") == 0 and all(math.isnan(value) for value in found.values())

    @pytest.mark.parametrize("signs", [(-1, 1), (1, -1), (-1, -1)])
    def test_a_turned_or_mirrored_result_fits_worse_than_its_copy_that_is_right(self, signs):
        """Wherever its center is, and in whatever order it is stored."""
        for moving in (PLANE, PLANE.reordered((1, 0), (False, True))):
            pair = sampled(moving=moving)
            right = orientation_ratios(pair, pair.read())
            assert min(right.values()) > 1.3
            matrix = np.diag([*signs, 1.0])
            matrix[:2, 2] = 1.5, -1.0  # the copy turns about the center of the contrast, which is near
            wrong = replace(pair, points=_mapped(pair, matrix))
            found = orientation_ratios(wrong, wrong.read())
            name = "nmi_turn_ratio" if signs == (-1, -1) else "nmi_mirror_ratio"
            assert found[name] < 1.1 < right[name]

    @pytest.mark.parametrize(("dims", "count"), [(2, 8), (3, 12)])
    def test_directions_are_unit_vectors_spread_evenly(self, dims, count):
        found = _directions(dims)
        assert found.shape == (count, dims)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
        np.testing.assert_allclose(found.sum(0), 0, atol=1e-12)
        np.testing.assert_allclose(found.T @ found, np.eye(dims) * count / dims, atol=1e-12)
        cosines = found @ found.T - 2 * np.eye(count)
        np.testing.assert_allclose(cosines.max(1), cosines.max())  # every one is as far from its nearest neighbor

    def test_blocks_number_whole_cubes_and_what_is_left(self):
        pair = sampled()
        blocks, number, size = _blocks(pair)
        counts = blocks.flatten().bincount()
        assert blocks.shape == pair.grid.shape and len(counts) == number
        assert counts.max() == size and counts.sum() == blocks.numel()
        first = blocks == 0
        assert first[: int(first.any(1).sum()), : int(first.any(0).sum())].all()

    def test_entropy(self):
        tables = torch.tensor([[4, 4, 4, 4], [9, 0, 0, 0], [0, 0, 0, 0], [1, 3, 0, 0]])
        expected = [math.log(4), 0, 0, -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
        np.testing.assert_allclose(_entropy(tables), expected, atol=1e-12)

    def test_bins_stay_in_range_and_ignore_scale(self):
        values = torch.from_numpy(np.random.default_rng(0).normal(size=200))
        found = _bins(values, torch.tensor([-1.0, 1.0]))
        assert found.min() == 0 and found.max() == 7
        assert torch.equal(_bins(50 * values + 3, torch.tensor([-47.0, 53.0])), found)
        assert not _bins(torch.ones(3), torch.ones(2)).any()


class TestLabelOverlap:
    GRID = grid_of((8, 9, 7), (2.0, 2.0, 2.0))

    def labels(self, seed: int = 0, grid: Grid = GRID) -> torch.Tensor:
        values = np.random.default_rng(seed).integers(0, 4, self.GRID.shape)
        return image(values, grid)

    def field(self, shift=(0.0, 0.0, 0.0)) -> torch.Tensor:
        return torch.tensor(shift).view(3, 1, 1, 1).expand(3, *self.GRID.shape).contiguous()

    def test_a_map_and_itself_overlap_fully(self):
        found = label_overlap("x", self.labels(), self.labels(), self.GRID, self.field((2.0, 0, 0)), self.field())
        assert found.after == {1: 1.0, 2: 1.0, 3: 1.0} and max(found.before.values()) < 0.6
        assert found.means[1] == 1 and not found.decreased
        torch.testing.assert_close(found.warped, found.fixed)

    def test_before_and_after_exchanged_is_a_decrease(self):
        found = label_overlap("x", self.labels(), self.labels(), self.GRID, self.field(), self.field((2.0, 0, 0)))
        assert found.decreased

    def test_other_numbers_for_the_labels_change_nothing_else(self):
        renamed = {0: 0, 1: 30, 2: 7, 3: 1000}
        maps = [self.labels(0), self.labels(1)]
        other = [m.as_tensor().clone().apply_(lambda v: renamed[int(v)]) for m in maps]
        fields = self.field(), self.field((2.0, 0, 0))
        one = label_overlap("x", *maps, self.GRID, *fields)
        two = label_overlap("x", *(image(m, self.GRID) for m in other), self.GRID, *fields)
        assert two.before == {renamed[k]: v for k, v in one.before.items()}
        assert two.means == pytest.approx(one.means)

    @pytest.mark.parametrize(("axes", "flips"), ORDERS[3::11])
    def test_the_storage_order_of_the_moving_map_does_not_matter(self, axes, flips):
        moving = self.labels(1).as_tensor()[0].permute(axes).flip([i for i, f in enumerate(flips) if f])
        fields = self.field(), self.field((2.0, 0, 0))
        expected = label_overlap("x", self.labels(), self.labels(1), self.GRID, *fields)
        found = label_overlap("x", self.labels(), image(moving, self.GRID.reordered(axes, flips)), self.GRID, *fields)
        assert (found.before, found.after) == (expected.before, expected.after)

    def test_one_map_alone_has_no_dice(self):
        for maps in ((self.labels(), None), (None, self.labels())):
            found = label_overlap("x", *maps, self.GRID, self.field(), self.field())
            assert not found.before and not found.after and not found.decreased
            assert all(map(math.isnan, found.means))

    @pytest.mark.parametrize(("after", "decreased"), [(0.795, False), (0.78, True), (0.9, False)])
    def test_a_change_that_resampling_may_cause_is_not_a_decrease(self, after, decreased):
        assert LabelOverlap("x", None, None, {1: 0.8}, {1: after}).decreased == decreased


class TestThresholds:
    @pytest.mark.parametrize("name", ["overlap", "information_gain", "valid_voxels", "far_contrast", "nmi_shift_ratio"])
    def test_lower_is_worse(self, name):
        warn, fail = getattr(Thresholds(), name)
        values = [warn + 1, warn, (warn + fail) / 2, fail, fail - 1]
        assert [Thresholds().status(name, v) for v in values] == ["PASS", "PASS", "WARN", "WARN", "FAIL"]

    @pytest.mark.parametrize(
        "name", ["stretch", "shear_degrees", "folding_percent", "volume_change", "inverse_voxels", "stages_without_overlap"]
    )
    def test_higher_is_worse(self, name):
        warn, fail = getattr(Thresholds(), name)
        values = [warn - 1, warn, (warn + fail) / 2, fail, fail + 1]
        assert [Thresholds().status(name, v) for v in values] == ["PASS", "PASS", "WARN", "WARN", "FAIL"]

    def test_none_is_never_and_nan_is_skipped(self):
        never = Thresholds(overlap=(None, None), late_change=(0.1, None))
        assert never.status("overlap", -1e9) == "PASS" and never.status("late_change", 1e9) == "WARN"
        assert never.status("overlap", math.nan) == "SKIP"

    def test_of_is_idempotent_and_keeps_the_other_defaults(self):
        found = Thresholds.of({"overlap": [0.4, 0.1]})
        assert found.overlap == (0.4, 0.1) and found.stretch == Thresholds().stretch
        assert Thresholds.of(found) is found and Thresholds.of(None) == Thresholds() == Thresholds.of({})

    @pytest.mark.parametrize("value", [0.4, (0.4,), (0.4, "x"), (True, 0.1), (math.nan, 0.1), (math.inf, 0.1), "ab"])
    def test_other_values_are_refused_with_the_name(self, value):
        with pytest.raises(InputError, match=r"threshold overlap must be a pair \(warn, fail\) of numbers or null"):
            Thresholds(overlap=value)

    def test_unknown_names_are_listed_with_the_known_ones(self):
        with pytest.raises(InputError, match="unknown thresholds: overlapp; choose from valid_voxels, stages_"):
            Thresholds.of({"overlapp": (1, 2)})


def test_the_world_of_a_sampled_pair_is_that_of_the_images():
    """Points of the samples, in voxels of the moving grid, are their world positions plus the displacement."""
    pair = sampled((3.0, -5.0), moving=OBLIQUE)
    world = apply_affine(OBLIQUE.affine, pair.points.double().movedim(0, -1).numpy())
    np.testing.assert_allclose(world, pair.grid.points() + [3.0, -5.0], atol=1e-4)
