# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The engine: known deformations are found, on all grids and from every start, twice the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from monai_locor import RegistrationConfig
from monai_locor.geometry import Grid, reorder
from monai_locor.metrics import inverse_consistency, target_registration_error
from monai_locor.registration import Stage, optimize

from ..parameters import mostly_slow
from ..phantoms import CUBE, ORDERS, PLANE, anatomy, grid_of, image, other_modality, pair
from .short_runs import GENTLE, NOTHING, SHORT, TINY, difference, engine_of, errors, inner, offset, run


class TestAnswer:
    def test_the_deformation_is_found(self, images, result, device):
        found = result if device.type == "cpu" else run(*images[:2], device=device)
        before, after = errors(found, images[2])
        assert before > 2 and after < before / 5, (before, after)

    def test_nothing_folds(self, result):
        assert result.jacobian["folding_percent"] == 0 and result.jacobian["ndv"] == 0 and result.jacobian["min"] > 0.2

    def test_forward_and_inverse_are_consistent(self, result):
        error = inverse_consistency(result.forward_mm, CUBE, result.inverse_mm, CUBE, inner(CUBE))
        assert float(error.quantile(0.95)) < 0.1 * CUBE.spacing[0]

    def test_the_warped_images_look_like_each_other(self, images, result):
        inside = (slice(None), *[slice(4, -4)] * 3)
        for warped, target, function in (
            (result.warped_moving, images[0], other_modality),
            (result.warped_fixed, torch.from_numpy(other_modality(images[1].numpy())), lambda x: x),
        ):
            guess = function(warped[inside].numpy())
            assert np.corrcoef(guess.ravel(), target[inside].numpy().ravel())[0, 1] > 0.97

    def test_the_loss_falls(self, result):
        for stage in result.history:
            assert np.mean(stage["loss"][-3:]) < np.mean(stage["loss"][:3])

    @pytest.mark.slow
    @pytest.mark.parametrize("function", [lambda x: x, other_modality], ids=["same", "other"])
    def test_aligned_images_stay_aligned(self, function):
        values = anatomy(CUBE.points())
        found = run(image(function(values), CUBE), image(values, CUBE))
        zero = torch.zeros_like(found.forward_mm)
        moved = target_registration_error(found.forward_mm, zero, inner(CUBE))
        assert float(moved.mean()) < 0.2 * CUBE.spacing[0]
        np.testing.assert_allclose(found.affine[:3, :3], np.eye(3), atol=0.02)

    @pytest.mark.slow
    def test_a_stage_that_makes_it_worse_is_undone(self, caplog):
        """Long steps next to a perfect fit, where the gradient is noise."""
        same = image(anatomy(CUBE.points()), CUBE)
        wild = Stage(2, 6, 8, learning_rate=0.5)
        found = run(same, same, {"stages": [Stage(2, 20), wild]})
        assert "was undone" in caplog.text and [stage["undone"] for stage in found.history] == [False, True]
        expected = CUBE.points() @ found.affine[:3, :3].T + found.affine[:3, 3] - CUBE.points()
        np.testing.assert_allclose(found.forward_mm.movedim(0, -1), expected, atol=1e-3)
        np.testing.assert_allclose(found.affine[:3, :3], np.eye(3), atol=0.02)

    @pytest.mark.slow
    def test_swapped_images_give_the_inverse(self, images, result):
        swapped = run(images[1], images[0])
        # both are off the truth by a little; they must not be off each other by more
        limit = 2 * errors(result, images[2])[1]
        assert difference(swapped.forward_mm, result.inverse_mm, CUBE, 0.5) < limit
        assert difference(swapped.inverse_mm, result.forward_mm, CUBE, 0.5) < limit

    def test_two_dimensions(self, device):
        fixed, moving, truth = pair(PLANE, PLANE)
        config = RegistrationConfig(stages=(Stage(2, 30), Stage(2, 30, 8, 0.16)), multistart="never")
        found = run(fixed, moving, config, device=device)
        assert found.forward_mm.shape == (2, *PLANE.shape) and found.warped_moving.shape == (1, *PLANE.shape)
        before, after = errors(found, truth)
        assert after < before / 4, (before, after)
        error = inverse_consistency(found.forward_mm, PLANE, found.inverse_mm, PLANE)
        assert float(error.quantile(0.95)) < 0.15 and found.jacobian["folding_percent"] == 0

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "settings",
        [{"basis": "polynomial"}, {"derivative": "none"}, {"derivative": "both"}, {"form": "normalized"}, {"damping": 0.0}],
        ids=str,
    )
    def test_every_variant_finds_it(self, settings):
        fixed, moving, truth = pair(PLANE, PLANE)
        before, after = errors(run(fixed, moving, dataclasses.replace(SHORT, **settings)), truth)
        assert after < before / 2, (before, after)


class TestGeometry:
    @pytest.mark.parametrize("role", ["fixed", "moving"])
    @pytest.mark.parametrize(
        "grid",
        [grid_of((60, 62, 21), (1.0, 1.0, 3.0)), grid_of((34, 26, 36), (2.0, 2.5, 1.8), (3, -2, 1), turn=0.4)],
        ids=["thick", "oblique"],
    )
    @pytest.mark.slow
    def test_grids_may_differ(self, role, grid):
        grids = {"fixed_grid": CUBE, "moving_grid": CUBE, f"{role}_grid": grid}
        fixed, moving, truth = pair(**grids)
        before, after = errors(run(fixed, moving), truth)
        assert after < before / 3, (before, after)

    @pytest.mark.slow
    def test_the_origin_of_the_world_does_not_matter(self, images):
        there = Grid(CUBE.shape, offset([700, -300, 150]) @ CUBE.affine)
        found = run(*(image(i.numpy()[0], there) for i in images[:2]), TINY)
        assert difference(found.forward_mm, run(*images[:2], TINY).forward_mm, CUBE) < 0.02

    @pytest.mark.slow
    def test_both_images_turned_through_the_world(self, images, result):
        turned = grid_of(turn=0.3)
        found = run(*(image(i.numpy()[0], turned) for i in images[:2]))
        rotation = torch.from_numpy(turned.affine[:3, :3] / 2).float()
        truth = torch.tensordot(rotation, images[2], dims=1)
        assert errors(found, truth)[1] < 1.5 * errors(result, images[2])[1]

    @pytest.mark.slow
    @pytest.mark.parametrize("dims", [3, 2])
    def test_both_images_turned_through_the_world_take_the_same_path(self, dims):
        """Whatever the axes are in the world, all steps are along those of the images."""
        grids = [
            (CUBE, grid_of((30, 34, 22), (2.0, 1.8, 3.0), (2, -1, 1), turn=0.1)),
            (PLANE, grid_of((40, 46), (1.7, 1.4), (1, -1), turn=0.1)),
        ][dims == 2]
        stored = pair(*grids)[:2]
        skew = np.array([[0, -0.25, 0.15], [0.25, 0, -0.2], [-0.15, 0.2, 0]])[:dims, :dims]
        turn = np.eye(dims + 1)
        turn[:dims, :dims] = torch.linalg.matrix_exp(torch.from_numpy(skew)).numpy()
        turn[:dims, dims] = [20, -15, 8][:dims]
        there = [Grid(g.shape, turn @ g.affine) for g in grids]
        start = np.eye(dims + 1)
        start[0, 1], start[:dims, dims] = 0.05, [1, -0.5, 0.5][:dims]
        conjugated = turn @ start @ np.linalg.inv(turn)
        rotation = torch.from_numpy(turn[:dims, :dims]).float()
        untouched = run(*stored, NOTHING, initial=start).forward_mm
        # a shift of 1e-6 mm alone makes as much of a difference after these steps, and 0.05 mm after four of 2.6 mm
        for stages, quantile in (((Stage(2, 4),), 1.0), ((Stage(2, 4), Stage(2, 4, spacing=8, learning_rate=0.01)), 0.95)):
            config = RegistrationConfig(stages=stages)
            found = run(*stored, config, initial=start)
            turned = run(*(image(i.numpy()[0], g) for i, g in zip(stored, there)), config, initial=conjugated)
            for here, away in ((found.forward_mm, turned.forward_mm), (found.inverse_mm, turned.inverse_mm)):
                error = (torch.tensordot(rotation, here, dims=1) - away).norm(dim=0).flatten()
                assert float(error.quantile(quantile)) < 1e-3 and float(error.max()) < 1e-2
            np.testing.assert_allclose(turned.affine, turn @ found.affine @ np.linalg.inv(turn), atol=1e-3)
            assert float((found.forward_mm - untouched).norm(dim=0).mean()) > 0.1

    @pytest.mark.slow
    def test_a_known_shift_of_the_world_is_taken_over(self, images, result):
        shifted = CUBE.affine.copy()
        shifted[:3, 3] += [10, -6, 4]
        found = run(images[0], image(images[1].numpy()[0], Grid(CUBE.shape, shifted)), initial=offset([10, -6, 4]))
        expected = result.forward_mm + torch.tensor([10.0, -6, 4]).view(3, 1, 1, 1)
        assert difference(found.forward_mm, expected, CUBE, 0.95) < 0.1

    @pytest.mark.parametrize("number", mostly_slow(range(len(ORDERS) - 2, -1, -2)))
    def test_every_storage_order(self, images, tiny, number):
        """Each of the 48 orders of one of the images, here with affines that are exact in binary.

        Those of the other image are in ``test_geometry_robustness.py``.
        """
        orders = ORDERS[number], ORDERS[(number + 17) % len(ORDERS)]
        stored = [image(reorder(i.as_tensor(), *o)[0].numpy(), CUBE.reordered(*o)) for i, o in zip(images, orders)]
        found = run(*stored, TINY)
        assert torch.equal(found.forward_mm, reorder(tiny.forward_mm, *orders[0]))
        assert torch.equal(found.inverse_mm, reorder(tiny.inverse_mm, *orders[1]))
        np.testing.assert_array_equal(found.affine, tiny.affine)


class TestDeterminism:
    @pytest.mark.slow
    def test_same_seed_same_bytes(self, images):
        first, second = (run(*images[:2], TINY, seed=3) for _ in range(2))
        assert first.forward_mm.numpy().tobytes() == second.forward_mm.numpy().tobytes()
        assert first.inverse_mm.numpy().tobytes() == second.inverse_mm.numpy().tobytes()
        assert [s["loss"] for s in first.history] == [s["loss"] for s in second.history]

    @pytest.mark.slow
    def test_another_seed_differs_a_little(self, images, result):
        other = run(*images[:2], seed=1)
        assert not torch.equal(other.forward_mm, result.forward_mm)
        assert errors(other, images[2])[1] < 2 * errors(result, images[2])[1]

    @pytest.mark.slow
    def test_the_random_state_of_the_caller_neither_matters_nor_changes(self, images):
        first = run(*images[:2], TINY)
        torch.manual_seed(123)
        state = torch.get_rng_state()
        second = run(*images[:2], TINY)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first.forward_mm, second.forward_mm)

    def test_stepping_by_hand_is_running(self, images):
        engines = [engine_of(images, TINY) for _ in range(2)]
        optimize(engines[0])
        for stage in TINY.stages:
            engines[1].enter(stage)
            values = [engines[1].step() for _ in range(stage.iterations)]
            assert all(v.shape == () and v.isfinite() for pair in values for v in pair)
        assert torch.equal(engines[0].forward_mm(), engines[1].forward_mm())
        assert torch.equal(*(engine.inverse_mm(engine.forward_mm()) for engine in engines))

    @pytest.mark.slow
    def test_devices_agree(self, images, device):
        here, there = run(*images[:2], TINY), run(*images[:2], TINY, device=device)
        assert difference(here.forward_mm, there.forward_mm, CUBE) < 0.05


class TestStart:
    def test_without_iterations_the_start_is_the_answer(self, images):
        matrix = offset([3, -2, 1])
        matrix[0, 1] = 0.1
        found = run(*images[:2], NOTHING, initial=matrix)
        expected = CUBE.points() @ matrix[:3, :3].T + matrix[:3, 3] - CUBE.points()
        np.testing.assert_allclose(found.affine, matrix, atol=1e-9)
        np.testing.assert_allclose(found.forward_mm.movedim(0, -1), expected, atol=1e-4)
        assert found.history == []
        error = inverse_consistency(found.forward_mm, CUBE, found.inverse_mm, CUBE)
        assert float(error.max()) < 1e-3

    def test_without_iterations_an_initial_velocity_is_integrated(self, images):
        shift = torch.tensor([1.0, -0.5, 0.25]).view(3, 1, 1, 1)  # voxels; constant, so its own exponential
        found = run(*images[:2], NOTHING, initial_velocity=shift.expand(3, *CUBE.shape))
        torch.testing.assert_close(found.forward_ddf, shift.expand(3, *CUBE.shape), atol=1e-4, rtol=0)
        torch.testing.assert_close(found.inverse_ddf, -shift.expand(3, *CUBE.shape), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("order", mostly_slow(ORDERS[3::16]), ids=str)
    def test_an_initial_velocity_goes_along_the_stored_axes(self, images, order):
        grid = CUBE.reordered(*order)
        fixed = image(reorder(images[0].as_tensor(), *order)[0].numpy(), grid)
        shift = torch.tensor([1.0, -0.5, 0.25]).view(3, 1, 1, 1).expand(3, *CUBE.shape)
        found = run(fixed, images[1], NOTHING, initial_velocity=shift)
        torch.testing.assert_close(found.forward_ddf, shift, atol=1e-4, rtol=0)

    def test_without_iterations_an_initial_displacement_is_the_answer(self, images):
        found = run(*images[:2], NOTHING, initial=images[2])
        before, after = errors(found, images[2])
        assert after < 0.02 * before

    @pytest.mark.slow
    def test_a_good_start_is_kept(self, images):
        found = run(*images[:2], GENTLE, initial=images[2])
        before, after = errors(found, images[2])
        # the first steps lead away, with a basis that knows nothing yet; from then on it comes back
        assert after < 0.12 * before, (before, after)

    def test_the_affine_can_be_held(self, images):
        found = run(*images[:2], dataclasses.replace(TINY, affine=False), initial=offset([1, 0, 0]))
        np.testing.assert_allclose(found.affine, offset([1, 0, 0]), atol=1e-12)
        assert float(found.forward_mm.std()) > 1e-3

    @pytest.mark.slow
    def test_affine_stages_leave_an_affine_map(self, images):
        found = run(*images[:2], RegistrationConfig(stages=(Stage(2, 10),)))
        expected = CUBE.points() @ found.affine[:3, :3].T + found.affine[:3, 3] - CUBE.points()
        np.testing.assert_allclose(found.forward_mm.movedim(0, -1), expected, atol=1e-4)
        assert np.abs(expected).max() > 0.5


class TestHistory:
    def test_one_entry_a_stage_and_one_value_a_step(self, result):
        assert len(result.history) == len(SHORT.stages)
        for entry, stage in zip(result.history, SHORT.stages):
            assert len(entry["loss"]) == len(entry["bending"]) == stage.iterations
            assert entry["factor"] == stage.factor and entry["spacing"] == stage.spacing and entry["seconds"] > 0
            assert np.isfinite(entry["loss"]).all() and (np.array(entry["bending"]) >= 0).all()

    def test_stages_without_iterations_are_left_out(self, images):
        config = dataclasses.replace(TINY, stages=(Stage(2, 2), Stage(2, 0, spacing=8), Stage(2, 1, spacing=8)))
        assert [len(s["loss"]) for s in run(*images[:2], config).history] == [2, 1]
