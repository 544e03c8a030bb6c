# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Scores of a study's case in memory, and what its random deformations are made of."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from monai_locor.data import study_scores
from monai_locor.data.learn2reg_measures import challenge_measures
from monai_locor.data.study_case import StudyCase
from monai_locor.data.study_scores import STUDY_SCORES, abdomen_score, cermep_score, ixi_score, regularity
from monai_locor.data.synthetic import exponential, rotation_matrix, smooth_noise
from monai_locor.errors import InputError
from monai_locor.geometry import Grid

from ..phantoms import grid_of, image

GRID = grid_of((12, 11, 10), (2.0, 2.0, 2.0))
SHIFT = (2.0, 0.0, 0.0)


def blocks() -> torch.Tensor:
    """Two organs in the middle of the grid, ``(*GRID)``."""
    out = torch.zeros(GRID.shape)
    out[3:6, 3:6, 3:7], out[6:9, 6:9, 3:7] = 1, 4
    return out


def field(*mm: float) -> torch.Tensor:
    return torch.tensor(mm).reshape(3, 1, 1, 1).expand(3, *GRID.shape).contiguous()


def case(study: str, **parts) -> StudyCase:
    """The moving anatomy lies one voxel to the right of the fixed one."""
    there = torch.roll(blocks(), 1, 0)
    mask = torch.zeros(GRID.shape)
    mask[2:10, 2:9, 2:8] = 1
    known = {
        "evaluation_mask": image(mask, GRID),
        "fixed_labels": image(blocks(), GRID),
        "moving_labels": image(there, GRID),
        "target": image(100 * blocks(), GRID),
        "truth": field(*SHIFT),
    }
    return StudyCase(study, "a", image(100 * blocks(), GRID), image(100 * there, GRID), **{**known, **parts})


@pytest.mark.parametrize("study", ["abdomen", "cermep", "ixi", "learn2reg"])
class TestEveryScore:
    @pytest.fixture(autouse=True)
    def _one_percentile(self, monkeypatch):
        monkeypatch.setattr(study_scores, "HAUSDORFF_PERCENTILES", (95,))  # each takes as long as all other measures

    def test_the_truth_beats_nothing_and_nothing_beats_the_opposite(self, study):
        """No displacement and a failed registration count the same."""
        fields = (field(*SHIFT), None, field(0.0, 0, 0), field(-2.0, 0, 0))
        found, failed, nothing, opposite = (STUDY_SCORES[study](case(study), u) for u in fields)
        assert failed == nothing and found["score"] < nothing["score"] < opposite["score"]
        assert found["ndv_percent"] == 0 and found.get("det_std", found.get("sdlogj")) == pytest.approx(0, abs=1e-6)

    def test_displacements_that_do_not_fit_are_refused(self, study):
        for wrong in (torch.zeros(3, 4, 4, 4), torch.full((3, *GRID.shape), torch.nan)):
            with pytest.raises(ValueError, match="a displacement of a must be finite and"):
                STUDY_SCORES[study](case(study), wrong)


class TestAbdomen:
    def test_the_truth_overlaps_fully_at_no_distance(self):
        found = abdomen_score(case("abdomen"), field(*SHIFT))
        organs = {name: value for name, value in found.items() if name.startswith("dice")}
        assert len(organs) == 3 and set(organs.values()) == {1.0}
        assert found["score"] == -1 and [found[f"hd{p}"] for p in (95, 99, 100)] == [0, 0, 0]

    def test_an_organ_that_the_fixed_map_lacks_does_not_count(self):
        fixed = torch.where(blocks() == 4, 0, blocks())
        found = abdomen_score(case("abdomen", fixed_labels=image(fixed, GRID)), field(*SHIFT))
        assert "dice_left_kidney" not in found and found["dice"] == 1

    def test_only_the_mask_counts(self):
        mask = torch.zeros(GRID.shape)
        mask[:6] = 1  # without the second organ
        found = abdomen_score(case("abdomen", evaluation_mask=image(mask, GRID)), None)
        assert "dice_left_kidney" not in found and found["dice"] == found["dice_liver"] == pytest.approx(0.8)

    def test_no_organ_at_all_is_an_error(self):
        with pytest.raises(InputError, match=r"its fixed labels hold none of .*liver"):
            abdomen_score(case("abdomen", fixed_labels=image(0 * blocks(), GRID)), None)

    def test_what_is_missing_is_named(self):
        with pytest.raises(InputError, match="case a of abdomen: has no moving_labels; it cannot be scored, prepare it again"):
            abdomen_score(case("abdomen", moving_labels=None), None)


class TestCermep:
    def test_the_error_is_the_mean_absolute_difference(self):
        off = case("cermep", target=image(100 * blocks() + 7, GRID))
        found = cermep_score(off, field(*SHIFT))
        assert found["mae_hu"] == pytest.approx(7, rel=1e-4) and found["score"] == found["mae_capped_hu"] == found["mae_hu"]

    def test_it_is_capped(self):
        found = cermep_score(case("cermep", target=image(100 * blocks() + 5000, GRID)), None)
        assert found["score"] == 120 and found["mae_hu"] > 4000


class TestIxi:
    def test_millimeters_and_voxels(self):
        grid = grid_of((12, 11, 10), (2.0, 4.0, 1.0))
        mask, zero = image(torch.ones(grid.shape), grid), image(torch.zeros(grid.shape), grid)
        shift = StudyCase("ixi", "a", zero, zero, evaluation_mask=mask, truth=torch.ones(3, *grid.shape))
        found = ixi_score(shift, None)
        assert found["error_mm"] == pytest.approx(math.sqrt(3))
        assert found["error_vox"] == pytest.approx(math.sqrt(0.5**2 + 0.25**2 + 1))

    def test_it_is_capped_at_three_voxels(self):
        found = ixi_score(case("ixi"), field(100.0, 0, 0))
        assert found["score"] == found["error_capped_vox"] == 3 and found["error_vox"] == pytest.approx(49)

    def test_only_the_mask_counts(self):
        wrong = field(*SHIFT)
        wrong[:, 0] = 50
        assert ixi_score(case("ixi"), wrong)["error_mm"] == 0


class TestLearn2Reg:
    POINTS = torch.tensor([[0.0, 1.0, -2.0], [3.0, -4.0, 2.0]], dtype=torch.float64)

    def test_points_that_the_displacement_meets_have_no_error(self):
        points = {"landmarks": (self.POINTS, self.POINTS + torch.tensor(SHIFT)), "keypoints": (self.POINTS, self.POINTS)}
        found = challenge_measures(case("learn2reg", points=points), field(*SHIFT))
        assert found["tre_landmarks_mm"] == pytest.approx(0, abs=1e-6)
        assert found["tre_keypoints_mm"] == pytest.approx(2)

    def test_without_labels_the_points_decide(self):
        points = {"landmarks": (self.POINTS, self.POINTS), "keypoints": (self.POINTS, self.POINTS + 1)}
        bare = dataclasses.replace(case("learn2reg", points=points), fixed_labels=None)
        found = challenge_measures(bare, None)
        assert "dice" not in found and found["score"] == pytest.approx(math.sqrt(3) / 2)

    def test_points_must_correspond(self):
        with pytest.raises(InputError, match="case a: 2 fixed and 1 moving landmarks; they must correspond"):
            challenge_measures(case("learn2reg", points={"landmarks": (self.POINTS, self.POINTS[:1])}), None)

    def test_chosen_labels_only(self):
        lost = torch.where(blocks() == 4, 0, blocks())
        some = case("learn2reg", moving_labels=image(torch.roll(lost, 1, 0), GRID))
        assert challenge_measures(some, field(*SHIFT))["dice"] == 1  # a label that the moving map lacks does not count
        one = challenge_measures(case("learn2reg"), None, labels=[1])["dice"]
        assert one == pytest.approx(2 / 3)

    def test_a_uniform_scaling_has_no_spread(self):
        points = torch.from_numpy(GRID.points()).movedim(-1, 0)
        found = challenge_measures(case("learn2reg"), 0.1 * points)
        assert found["sdlogj"] == pytest.approx(0, abs=1e-5) and found["folding_voxels"] == 0
        folded = challenge_measures(case("learn2reg"), -2.0 * points)
        assert folded["folding_percent"] == 100 and folded["ndv_percent"] == pytest.approx(100, rel=1e-4)


def test_regularity_leaves_the_border_out():
    u = torch.zeros(3, *GRID.shape)
    u[0, 0] = 50
    inside = regularity(u, GRID)
    assert inside["ndv_percent"] > 0  # the simplices of the first inner voxel fold
    assert regularity(torch.zeros(3, *GRID.shape), GRID) == {"ndv_percent": 0, "det_std": 0}
    assert regularity(torch.zeros(3, 3, 3, 3), grid_of((3, 3, 3)))["ndv_percent"] == 0
    assert regularity(torch.zeros(3, 2, 3, 3), grid_of((2, 3, 3))) == {}


class TestSynthetic:
    @pytest.mark.parametrize("dims", [1, 3])
    def test_rotations_add_up_and_undo_each_other(self, dims):
        vector = np.random.default_rng(0).uniform(-1, 1, dims)
        turn = rotation_matrix(vector)
        np.testing.assert_allclose(turn @ turn.T, np.eye(len(turn)), atol=1e-12)
        np.testing.assert_allclose(turn @ turn, rotation_matrix(2 * vector), atol=1e-12)
        np.testing.assert_allclose(rotation_matrix(-vector), turn.T, atol=1e-12)
        if dims == 3:
            np.testing.assert_allclose(turn @ vector, vector, atol=1e-12)
            assert np.trace(turn) == pytest.approx(1 + 2 * np.cos(np.linalg.norm(vector)))

    def test_rotations_are_right_handed(self):
        np.testing.assert_allclose(rotation_matrix(np.array([0, 0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
        np.testing.assert_allclose(rotation_matrix(np.array([np.pi / 2])) @ [1, 0], [0, 1], atol=1e-12)

    def test_noise_has_unit_length_and_the_correlation_of_its_gaussian(self):
        grid = Grid((64, 64), np.diag([1.0, 1.0, 1.0]))
        noise = smooth_noise(grid, 40, 3.0, np.random.default_rng(0))
        assert (noise**2).sum(0).mean() == pytest.approx(1)
        near = (noise * np.roll(noise, 3, 1)).sum(0).mean()  # at one standard deviation: exp(-1/4)
        assert near == pytest.approx(np.exp(-0.25), abs=0.03)

    def test_a_constant_velocity_is_a_shift_and_its_negative_undoes_it(self):
        velocity = torch.tensor([3.0, -2.0]).reshape(2, 1, 1).expand(2, 20, 18)
        found = exponential(velocity, 2.0)
        torch.testing.assert_close(found, velocity, rtol=0, atol=1e-5)
        torch.testing.assert_close(exponential(-velocity, 2.0), -found, rtol=0, atol=1e-5)

    def test_a_linear_velocity_gives_the_matrix_exponential(self):
        generator = torch.tensor([[0.0, -0.2], [0.2, 0.0]], dtype=torch.float64)
        points = torch.stack(torch.meshgrid(*[torch.arange(-15.0, 16, dtype=torch.float64)] * 2, indexing="ij"))
        found = exponential(torch.tensordot(generator, points, dims=1), 1.0)
        expected = torch.tensordot(torch.linalg.matrix_exp(generator) - torch.eye(2), points, dims=1)
        inner = (slice(None), slice(9, -9), slice(9, -9))
        torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=0.03)
