# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Verdicts: what is right passes, each thing that can be wrong is found and named, and real pairs are told apart."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import InputError, RegistrationResult, register
from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid
from monai_locor.io import read_image
from monai_locor.metrics import inverse_consistency
from monai_locor.quality.alignment import local_fit
from monai_locor.quality.measures import affine_shape, convergence, inverse_error, shared_field_of_view
from monai_locor.quality.rivals import Rival
from monai_locor.quality.samples import SampledPair, every_nth
from monai_locor.quality.thresholds import LOWER_IS_WORSE
from monai_locor.quality.verdict import judge_outcome
from monai_locor.registration.judging import outcome_of
from monai_locor.report import Thresholds, Verdict, judge

from ..phantoms import grid_of, image
from ..registration.brains import coarser
from ..report.results import DECREASING_LOSS, GRID, GRID_2D, aligned, noise, result_with, shift

SHORT = dict(DECREASING_LOSS[0])


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor]:
    return aligned()


@pytest.fixture(scope="module")
def flat() -> tuple[MetaTensor, MetaTensor]:
    """The same in two dimensions, where a verdict takes a fifth of the time."""
    return aligned(GRID_2D)


def statuses(verdict: Verdict) -> dict[str, str]:
    return {reason.check: reason.status for reason in verdict.reasons}


def found(result: RegistrationResult, **options) -> dict[str, str]:
    """What is not right."""
    verdict = judge(result, result.fixed_image, result.moving_image, **options)
    bad = {check: status for check, status in statuses(verdict).items() if status in ("WARN", "FAIL")}
    assert verdict.status == max(["PASS", *bad.values()], key=("PASS", "WARN", "FAIL").index)
    assert all(reason.text and bool(reason.advice) == (reason.check in bad) for reason in verdict.reasons)
    return bad


class TestPasses:
    def test_an_aligned_pair_that_was_not_moved(self, images):
        verdict = judge(result_with(*images), *images)
        assert set(statuses(verdict).values()) <= {"PASS", "SKIP"} and str(verdict).startswith("PASS")
        assert 1 <= verdict.measures["information_gain"] < 1.5 and verdict.measures["overlap"] == 1

    @pytest.mark.parametrize("grid", [GRID_2D, pytest.param(GRID, marks=pytest.mark.slow)], ids=["2-D", "3-D"])
    def test_an_image_with_itself(self, grid):
        """Interpolation between the voxels lowers NMI from 2."""
        fixed, _ = aligned(grid)
        assert found(result_with(fixed, fixed)) == {}
        assert found(result_with(fixed, fixed, shift(grid, *[0.1] * grid.dims))) == {}

    def test_two_dimensions(self):
        assert found(result_with(*aligned(GRID_2D))) == {}

    def test_a_pair_that_was_brought_together(self, images):
        moving = image_at(images[1], 10.0)  # the same voxels, elsewhere in the world
        assert found(result_with(images[0], moving, shift(GRID, 10.0, 0, 0))) == {}


def image_at(source: MetaTensor, x: float) -> MetaTensor:
    affine = source.affine.clone()
    affine[0, 3] += x
    return MetaTensor(source.as_tensor(), affine=affine)


class TestFinds:
    def test_an_unrelated_image(self, images):
        assert found(result_with(images[0], noise()))["alignment"] == "FAIL"

    def test_a_result_that_is_beside(self, images):
        assert found(result_with(*images, shift(GRID, 0, 8.0, 0))).keys() == {"alignment", "information gain"}

    def test_a_result_that_is_worse_than_the_start(self, images):
        bad = found(result_with(*images, shift(GRID, 0, 8.0, 0)))
        assert bad["information gain"] == "FAIL"
        moved = result_with(*images, shift(GRID, 0, 8.0, 0), initial=np.eye(4) + np.eye(4, k=2) * [0, 0, 0, 8.0])
        assert "information gain" not in found(moved)  # it was there from the start

    def test_too_little_overlap(self, images):
        for mm, status in ((40.0, "WARN"), (56.0, "FAIL")):
            assert found(result_with(*images, shift(GRID, mm, 0, 0)))["overlap"] == status

    @pytest.mark.parametrize(
        ("matrix", "status"),
        [
            (np.diag([1.3, 1, 1]), None),
            (np.diag([1.4, 1.4, 1]), "WARN"),
            (np.diag([0.6, 0.6, 1]), "FAIL"),
            (np.diag([1.3, 0.8, 1]), "WARN"),  # a right angle changes by 27 degrees
            (np.diag([-1.0, 1, 1]), "FAIL"),
        ],
    )
    def test_an_affine_that_is_not_plausible(self, flat, matrix, status):
        assert found(result_with(*flat, affine=matrix)).get("affine") == status
        assert "affine" not in found(result_with(*flat, affine=matrix, initial=matrix))  # unless it was asked for

    def test_the_shear_of_two_people(self, images):
        """Unless they are known to be two; never in 2-D, see above."""
        sheared = np.eye(4)
        sheared[0, 1] = math.tan(math.radians(5.0))
        one = result_with(*images, affine=sheared)
        two = dataclasses.replace(one, config=dataclasses.replace(one.config, intersubject="always"))
        assert found(one)["one subject"] == "WARN" and "affine" not in found(one)
        assert "one subject" not in statuses(judge(two, *images))
        sheared[0, 1] = math.tan(math.radians(2.0))
        assert "one subject" not in found(result_with(*images, affine=sheared))

    @pytest.mark.parametrize(("lead", "status"), [(-4.0, "PASS"), (-0.5, "WARN"), (2.0, "WARN"), (5.0, "FAIL")])
    def test_a_mirrored_image_that_agrees_as_well(self, images, lead, status):
        outcome = outcome_of(result_with(*images))
        rivals = (Rival("mirrored left-right", True, lead), Rival("turned", False, -8.0))
        verdict = judge_outcome(dataclasses.replace(outcome, rivals=rivals), *images)
        assert statuses(verdict)["mirror image"] == status

    def test_folding_and_volume(self, flat):
        jacobian = result_with(*flat).jacobian
        for changes, expected in (
            ({"folding_percent": 0.1}, {"folding": "WARN"}),
            ({"folding_percent": 2.0}, {"folding": "FAIL"}),
            ({"p01": 0.3}, {"volume change": "WARN"}),
            ({"p99": 11.0}, {"volume change": "FAIL"}),
        ):
            assert found(result_with(*flat, jacobian={**jacobian, **changes})) == expected

    def test_transforms_that_do_not_undo_each_other(self, flat):
        for mm, status in ((0.7, "WARN"), (3.0, "FAIL")):  # 1 mm voxels
            assert found(result_with(*flat, inverse=shift(GRID_2D, 0, mm)))["inverse"] == status

    def test_a_loss_that_still_falls_rises_or_is_not_finite(self, flat):
        line = [float(i) for i in range(1, 41)]
        for loss, expected in (
            (line[::-1], {"convergence": "WARN"}),
            (line, {"convergence": "WARN"}),
            ([None, *SHORT["loss"][1:]], {"steps": "WARN"}),
            ([None] * 10 + SHORT["loss"][:30], {"steps": "FAIL"}),
        ):
            assert found(result_with(*flat, history=[{**SHORT, "loss": loss}])) == expected

    def test_an_interruption(self, flat):
        assert found(result_with(*flat, interrupted=True)) == {"finished": "WARN"}


class TestMasks:
    def test_only_what_counts_is_compared(self, images):
        """Noise in one half, hidden by a mask on either side."""
        half = torch.zeros(GRID.shape)
        half[:, :, 13:] = 1
        spoiled = image(torch.where(half > 0, images[1].as_tensor()[0], 5 * noise().as_tensor()[0]).numpy(), GRID)
        result = result_with(images[0], spoiled)
        mask = image(half.numpy(), GRID)
        clean = judge(result_with(*images), *images, fixed_mask=mask).measures
        for masks in ({"fixed_mask": mask}, {"moving_mask": mask}):
            value = judge(result, images[0], spoiled, **masks).measures["nmi_after"]
            assert value == pytest.approx(clean["nmi_after"], abs=0.02)
        assert judge(result, images[0], spoiled).measures["nmi_after"] < clean["nmi_after"] - 0.1

    def test_voxels_that_are_not_finite_do_not_count(self, images):
        broken = images[1].clone()
        broken[:, :, :, :10] = math.nan
        assert found(result_with(images[0], broken)) == {}

    def test_too_little_to_compare_is_no_verdict(self, images):
        mask = torch.zeros(GRID.shape)
        mask[16, 14, 10:20] = 1
        verdict = judge(result_with(*images), *images, fixed_mask=image(mask.numpy(), GRID))
        assert {c: s for c, s in statuses(verdict).items() if s not in ("PASS", "SKIP")} == {
            "voxels": "FAIL",
            "information gain": "WARN",
            "alignment": "WARN",
        }
        assert verdict.measures["nmi_after"] is None and verdict.measures["valid_voxels"] == 10


class TestManyDoubts:
    """Each may be in a right result; six together are not."""

    @staticmethod
    def doubtful(count: int) -> dict[str, tuple[float, None]]:
        """Thresholds that put this number of checks in doubt."""
        names = ["valid_voxels", "overlap", "nmi_turn_ratio", "stretch", "folding_percent", "volume_change", "inverse_voxels"]
        return {name: (1e9 if name in LOWER_IS_WORSE else -1.0, None) for name in names[:count]}

    @pytest.mark.parametrize(("count", "status"), [(5, "WARN"), (6, "FAIL"), (7, "FAIL")])
    def test_six_are_a_failure_that_names_them(self, images, count, status):
        result = result_with(*images, history=DECREASING_LOSS)
        assert not found(result)
        verdict = judge(result, *images, thresholds=self.doubtful(count))
        assert verdict.status == status
        assert sum(reason.status == "WARN" for reason in verdict.reasons) == count
        if status == "FAIL":
            assert verdict.reasons[0].check == "doubts"
            assert f"{count} checks" in verdict.reasons[0].text and "voxels, overlap, orientation" in verdict.reasons[0].text

    def test_a_failure_needs_no_other(self, images):
        limits = self.doubtful(7) | {"stretch": (0.0, 0.0)}
        verdict = judge(result_with(*images, history=DECREASING_LOSS), *images, thresholds=limits)
        assert verdict.status == "FAIL" and "doubts" not in statuses(verdict)


class TestThresholds:
    def test_they_decide(self, flat):
        assert found(result_with(*flat), thresholds={"nmi_shift_ratio": (100.0, None)}) == {"alignment": "WARN"}
        assert found(result_with(*flat, interrupted=True), thresholds=Thresholds(overlap=(1.1, 1.05))).keys() == {
            "finished",
            "overlap",
        }

    def test_the_blocks_and_the_whole_image_must_agree_on_a_failure(self, flat):
        result = result_with(*flat)
        local, whole = {"far_contrast": (200, 100)}, {"nmi_shift_ratio": (200, 100)}
        for limits, status in ((local, "WARN"), (whole, "WARN"), ({**local, **whole}, "FAIL")):
            assert found(result, thresholds=limits) == {"alignment": status}

    @pytest.mark.parametrize(("lead", "status"), [(-1.0, "FAIL"), (-5.0, "WARN")])
    def test_the_whole_image_and_another_orientation_suffice_for_a_failure(self, flat, lead, status):
        outcome = dataclasses.replace(outcome_of(result_with(*flat)), rivals=(Rival("turned", False, lead),))
        verdict = judge_outcome(outcome, *(i.as_tensor() for i in flat), {"nmi_shift_ratio": (200, 100), "rival_lead": (0, 3)})
        assert statuses(verdict)["alignment"] == status

    def test_images_that_do_not_determine_the_alignment_do_not_pass(self, flat):
        assert found(result_with(*flat), thresholds={"near_contrast": (100, None)}) == {"precision": "WARN"}

    def test_they_are_kept_and_json_brings_the_verdict_back(self, flat):
        verdict = judge(result_with(*flat, interrupted=True), *flat, {"stretch": [1.1, None]})
        told = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
        assert Verdict.of(told) == verdict and told["thresholds"]["stretch"] == [1.1, None]

    @pytest.mark.parametrize("wrong", [{"strech": (1, 2)}, {"stretch": 3}, {"stretch": (1,)}, {"stretch": ("a", 2)}])
    def test_wrong_ones_are_refused(self, wrong):
        with pytest.raises(InputError, match="stretch"):
            Thresholds.of(wrong)

    def test_images_of_another_size_are_refused(self, flat):
        with pytest.raises(InputError, match="moving image"):
            judge(result_with(*flat), flat[0], flat[1][:, :-1])


class TestMeasures:
    def test_stretch_and_shear_do_not_depend_on_how_the_images_lie(self):
        turn = torch.linalg.matrix_exp(torch.tensor([[0, -0.5, 0.2], [0.5, 0, 0.4], [-0.2, -0.4, 0]])).numpy()
        plain = np.diag([1.2, 1.0, 0.9, 1.0])
        turned = plain.copy()
        turned[:3, :3] = turn @ plain[:3, :3] @ turn.T @ turn
        shapes = [affine_shape(matrix, np.eye(4)) for matrix in (turned, plain)]
        assert shapes[0].pop("turn_degrees") == pytest.approx(38.4, abs=0.1) and shapes[1].pop("turn_degrees") == 0
        assert shapes[0] == pytest.approx(shapes[1], rel=1e-5)

    def test_shear_is_the_largest_change_of_a_right_angle(self):
        matrix = np.eye(3)
        matrix[0, 1], worst = 0.3, 0.0
        for angle in np.linspace(0, np.pi, 1000):
            a, b = (matrix[:2, :2] @ [np.cos(angle + k), np.sin(angle + k)] for k in (0, np.pi / 2))
            worst = max(worst, abs(90 - np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))))
        assert affine_shape(matrix, np.eye(3))["shear_degrees"] == pytest.approx(worst, abs=1e-3)

    def test_overlap_is_a_share_of_the_smaller_view(self):
        small = Grid((10, 10, 10), np.diag([1.0, 1, 1, 1]))
        large = Grid((20, 20, 20), small.affine)
        for x, expected in ((0.0, 1.0), (15.0, 0.5), (40.0, 0.0)):
            assert shared_field_of_view(shift(small, x, 0, 0), small, shift(large, -x, 0, 0), large) == expected
            assert shared_field_of_view(shift(large, -x, 0, 0), large, shift(small, x, 0, 0), small) == expected

    def test_inverse_error_is_the_percentile_of_all_voxels(self):
        grid = Grid((50, 50, 40), np.diag([1.0, 1, 1, 1]))
        u = random_diffeomorphism(grid, 0, smoothing_mm=15)
        whole = float(inverse_consistency(u, grid, -u, grid).quantile(0.95))
        assert inverse_error(u, grid, -u, grid) == pytest.approx(whole, rel=0.03)

    def test_thinned_grids_lie_where_their_voxels_are(self):
        grid = Grid((41, 30, 7), np.array([[0, 1.0, 0, 5], [-0.5, 0, 0, 3], [0, 0, 4.0, -2], [0, 0, 0, 1]]))
        cut, thin = every_nth(grid, 500)
        np.testing.assert_allclose(np.moveaxis(grid.points(), -1, 0)[cut], np.moveaxis(thin.points(), -1, 0), atol=1e-12)
        assert 300 < np.prod(thin.shape) <= 750 and thin.shape[2] == 7  # the thick axis is left alone

    def test_convergence(self):
        assert math.isnan(convergence([])["late_change"])
        two = [{"loss": [4.0, 2.0, 1.0, 0.0]}, {"loss": [9.0, 9.0, 9.0, 8.0]}]
        assert convergence(two) == {"late_change": pytest.approx(1 / 5), "skipped_steps": 0}
        assert convergence([{"loss": [None, None]}]) == {
            "late_change": pytest.approx(math.nan, nan_ok=True),
            "skipped_steps": 1,
        }

    def test_the_local_fit_falls_with_the_displacement_in_every_direction(self):
        grid = grid_of((40, 36, 34))
        fixed, moving = aligned(grid)
        pair = SampledPair.of(fixed, grid, moving, grid, shift(grid, 0, 0, 0))
        offsets = np.array([[0, 0, 0], [6.0, 0, 0], [-3.0, -4, 4]])
        fits = [local_fit(pair, pair.read(offset)) for offset in offsets]
        for name, right, wrong in (("local_support", 0.8, 0.3), ("near_contrast", 1.15, 1.1), ("far_contrast", 1.5, 1.2)):
            first, *others = (fit[name] for fit in fits)
            assert first > right and max(others) < wrong, (name, first, others)


@pytest.mark.slow
class TestRealPairs:
    """At 4 mm, registered with the fast preset; the first is good, the others must not pass."""

    def verdict(self, fixed: MetaTensor, moving: MetaTensor) -> Verdict:
        return register(fixed, moving, preset="fast", device="cpu", progress=False).verdict

    def image(self, shared: Path, name: str) -> MetaTensor:
        path = shared / "data" / name
        if not path.is_file():
            pytest.skip(f"no {name} in the shared data")
        return coarser(read_image(path)[0], 4.0)

    def test_an_aligned_pair_passes(self, shared):
        verdict = self.verdict(self.image(shared, "avg152T2_2mm.nii.gz"), self.image(shared, "avg152T1_2mm.nii.gz"))
        assert verdict.status == "PASS", verdict

    def test_a_brain_and_an_abdomen_fail(self, shared):
        verdict = self.verdict(self.image(shared, "avg152T1_2mm.nii.gz"), self.image(shared, "abdomen_CT.nii.gz"))
        assert verdict.status == "FAIL", verdict

    def test_a_head_and_noise_fail(self, shared):
        head = self.image(shared, "nichart/Subj01_T1.nii.gz")
        verdict = self.verdict(head, MetaTensor(torch.randn(head.shape), affine=head.affine))
        assert verdict.status == "FAIL", verdict


def test_register_judges_with_the_masks_and_the_start(images):
    from ..registration.short_runs import NOTHING, offset, run

    mask = torch.zeros(GRID.shape)
    mask[8:24, 8:24, 8:24] = 1
    masks = {"fixed_mask": image(mask.numpy(), GRID)}
    result = run(*images, dataclasses.replace(NOTHING, multistart="auto"), initial=offset([4.0, 0, 0]), **masks)
    assert result.verdict.rivals and result.verdict == judge(result, *images, **masks)
    assert result.verdict.measures["nmi_before"] == result.verdict.measures["nmi_after"]
