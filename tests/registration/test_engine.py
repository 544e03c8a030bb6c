# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""The engine: known deformations are found, and nothing that must not matter does.

Images are functions of world position, so that the same anatomy exists on any grid; the second modality is a function
of the first that is neither linear nor monotonic.
"""

from __future__ import annotations

import dataclasses
import logging
from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig, RegistrationResult, register
from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid, reorder
from monai_locor.metrics import inverse_consistency, target_registration_error
from monai_locor.registration import RegistrationEngine, Stage
from monai_locor.registration.prepare import prepare

SHORT = RegistrationConfig(stages=(Stage(2, 25), Stage(2, 30, spacing=8, learning_rate=0.08)), decay_start=0.3, decay_end=0.02)
GENTLE = RegistrationConfig(stages=(Stage(2, 30, spacing=8, learning_rate=0.01),), learning_rate_affine=1e-4)
TINY = RegistrationConfig(stages=(Stage(2, 4), Stage(2, 4, spacing=8, learning_rate=0.16)))
NOTHING = RegistrationConfig(stages=(Stage(1, 0, spacing=4),))
ORDERS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def grid_of(shape=(32, 32, 32), spacing=(2.0, 2.0, 2.0), centre=(0.0, 0.0, 0.0), turn: float = 0.0) -> Grid:
    """A grid around ``centre``, turned about the last axis."""
    dims = len(shape)
    affine, rotation = np.eye(dims + 1), np.eye(dims)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:-1, :-1] = rotation * spacing
    affine[:-1, -1] = np.array(centre) - affine[:-1, :-1] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


CUBE = grid_of()
PLANE = grid_of((48, 44), (1.5, 1.5), (0.0, 0.0))


def anatomy(world: np.ndarray) -> np.ndarray:
    """Blobs between -45 and 45 mm, values of about -1 to 1, ``(...)`` of ``(..., D)``."""
    rng, out = np.random.default_rng(5), np.zeros(world.shape[:-1])
    for _ in range(160 if world.shape[-1] == 3 else 60):
        centre, width, height = rng.uniform(-45, 45, world.shape[-1]), rng.uniform(4, 9), rng.uniform(-1, 1)
        out += height * np.exp(-((world - centre) ** 2).sum(-1) / (2 * width**2))
    return np.tanh(out)


def other_modality(values: np.ndarray) -> np.ndarray:
    return np.cos(3.5 * values - 0.5) + 0.3 * values


def image(values: np.ndarray, grid: Grid) -> MetaTensor:
    affine = np.eye(4)
    affine[: grid.dims, : grid.dims], affine[: grid.dims, 3] = grid.affine[:-1, :-1], grid.affine[:-1, -1]
    return MetaTensor(torch.from_numpy(values).float()[None], affine=torch.from_numpy(affine))


def small_deformation(grid: Grid, seed: int = 1) -> torch.Tensor:
    return random_diffeomorphism(grid, seed, rotation_deg=5, translation_mm=3, elastic_rms_mm=1.5, smoothing_mm=12)


def pair(fixed_grid: Grid = CUBE, moving_grid: Grid = CUBE) -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    """Fixed and moving image, and the displacement that takes the one to the other."""
    truth = small_deformation(fixed_grid)
    moved = fixed_grid.points() + truth.movedim(0, -1).double().numpy()
    return image(other_modality(anatomy(moved)), fixed_grid), image(anatomy(moving_grid.points()), moving_grid), truth


def run(fixed: torch.Tensor, moving: torch.Tensor, preset: RegistrationConfig = SHORT, **options) -> RegistrationResult:
    return register(fixed, moving, preset=preset, progress=False, **{"device": "cpu", **options})


def inner(grid: Grid, margin_mm: float = 8.0) -> torch.Tensor:
    """Voxels away from the border, where there is nothing to align to on the other side, ``(*shape)``."""
    mask = torch.zeros(grid.shape)
    mask[tuple(slice(m, n - m) for n, m in zip(grid.shape, np.ceil(margin_mm / grid.spacing).astype(int)))] = 1
    return mask


def errors(result: RegistrationResult, truth: torch.Tensor) -> tuple[float, float]:
    """Mean target registration error before and after, mm."""
    mask = inner(result.fixed_grid)
    values = [target_registration_error(u, truth, mask).mean() for u in (torch.zeros_like(truth), result.forward_mm)]
    return float(values[0]), float(values[1])


def difference(a: torch.Tensor, b: torch.Tensor, grid: Grid, quantile: float = 1.0) -> float:
    """Distance of two displacements away from the border, mm."""
    return float(target_registration_error(a, b, inner(grid)).quantile(quantile))


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    return pair()


@pytest.fixture(scope="module")
def result(images) -> RegistrationResult:
    return run(*images[:2])


class TestAnswer:
    def test_the_deformation_is_found(self, images, device):
        found = run(*images[:2], device=device)
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

    @pytest.mark.parametrize("function", [lambda x: x, other_modality], ids=["same", "other"])
    def test_aligned_images_stay_aligned(self, function):
        values = anatomy(CUBE.points())
        found = run(image(function(values), CUBE), image(values, CUBE))
        zero = torch.zeros_like(found.forward_mm)
        moved = target_registration_error(found.forward_mm, zero, inner(CUBE))
        assert float(moved.mean()) < 0.2 * CUBE.spacing[0]
        np.testing.assert_allclose(found.affine[:3, :3], np.eye(3), atol=0.02)

    def test_swapped_images_give_the_inverse(self, images, result):
        swapped = run(images[1], images[0])
        # both are off the truth by a little; they must not be off each other by more
        limit = 2 * errors(result, images[2])[1]
        assert difference(swapped.forward_mm, result.inverse_mm, CUBE, 0.5) < limit
        assert difference(swapped.inverse_mm, result.forward_mm, CUBE, 0.5) < limit

    def test_two_dimensions(self, device):
        fixed, moving, truth = pair(PLANE, PLANE)
        config = RegistrationConfig(stages=(Stage(2, 40), Stage(2, 40, 8, 0.16), Stage(1, 20, 4, 0.08)))
        found = run(fixed, moving, config, device=device)
        assert found.forward_mm.shape == (2, *PLANE.shape) and found.warped_moving.shape == (1, *PLANE.shape)
        before, after = errors(found, truth)
        assert after < before / 4, (before, after)
        error = inverse_consistency(found.forward_mm, PLANE, found.inverse_mm, PLANE)
        assert float(error.quantile(0.95)) < 0.15 and found.jacobian["folding_percent"] == 0

    @pytest.mark.parametrize(
        "settings",
        [{"derivative": "none"}, {"derivative": "both"}, {"basis": "polynomial"}, {"form": "normalized"}, {"damping": 0.0}],
        ids=str,
    )
    def test_every_variant_finds_it(self, images, settings):
        before, after = errors(run(*images[:2], dataclasses.replace(SHORT, **settings)), images[2])
        assert after < before / 2, (before, after)


class TestGeometry:
    @pytest.mark.parametrize("role", ["fixed", "moving"])
    @pytest.mark.parametrize(
        "grid",
        [grid_of((60, 62, 21), (1.0, 1.0, 3.0)), grid_of((34, 26, 36), (2.0, 2.5, 1.8), (3, -2, 1), turn=0.4)],
        ids=["thick", "oblique"],
    )
    def test_grids_may_differ(self, role, grid):
        grids = {"fixed_grid": CUBE, "moving_grid": CUBE, f"{role}_grid": grid}
        fixed, moving, truth = pair(**grids)
        before, after = errors(run(fixed, moving), truth)
        assert after < before / 3, (before, after)

    def test_the_origin_of_the_world_does_not_matter(self, images):
        there = Grid(CUBE.shape, offset([700, -300, 150]) @ CUBE.affine)
        found = run(*(image(i.numpy()[0], there) for i in images[:2]), TINY)
        assert difference(found.forward_mm, run(*images[:2], TINY).forward_mm, CUBE) < 0.02

    def test_both_images_turned_through_the_world(self, images, result):
        turned = grid_of(turn=0.3)
        found = run(*(image(i.numpy()[0], turned) for i in images[:2]))
        rotation = torch.from_numpy(turned.affine[:3, :3] / 2).float()
        truth = torch.tensordot(rotation, images[2], dims=1)
        assert errors(found, truth)[1] < 1.5 * errors(result, images[2])[1]

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
        found = run(*stored, TINY, initial=start)
        conjugated = turn @ start @ np.linalg.inv(turn)
        turned = run(*(image(i.numpy()[0], g) for i, g in zip(stored, there)), TINY, initial=conjugated)
        rotation = torch.from_numpy(turn[:dims, :dims]).float()
        for here, away in ((found.forward_mm, turned.forward_mm), (found.inverse_mm, turned.inverse_mm)):
            assert float((torch.tensordot(rotation, here, dims=1) - away).norm(dim=0).max()) < 1e-3
        np.testing.assert_allclose(turned.affine, turn @ found.affine @ np.linalg.inv(turn), atol=1e-3)
        assert float((found.forward_mm - run(*stored, NOTHING, initial=start).forward_mm).norm(dim=0).mean()) > 0.1

    def test_a_known_shift_of_the_world_is_taken_over(self, images, result):
        shifted = CUBE.affine.copy()
        shifted[:3, 3] += [10, -6, 4]
        found = run(images[0], image(images[1].numpy()[0], Grid(CUBE.shape, shifted)), initial=offset([10, -6, 4]))
        expected = result.forward_mm + torch.tensor([10.0, -6, 4]).view(3, 1, 1, 1)
        assert difference(found.forward_mm, expected, CUBE, 0.95) < 0.1

    @pytest.mark.parametrize("role", ["fixed", "moving"])
    @pytest.mark.parametrize("order", ORDERS[::7], ids=str)
    def test_storage_order(self, images, role, order):
        check_order(images, role, *order)

    @pytest.mark.slow
    @pytest.mark.parametrize("role", ["fixed", "moving"])
    @pytest.mark.parametrize("order", ORDERS, ids=str)
    def test_every_storage_order(self, images, role, order):
        check_order(images, role, *order)


def offset(shift) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


def check_order(images, role: str, axes, flips) -> None:
    """The same world transform, bit by bit: the affines here are exact in binary."""
    expected = run(*images[:2], TINY)
    stored = {"fixed": images[0], "moving": images[1]}
    grid = CUBE.reordered(axes, flips)
    stored[role] = image(reorder(stored[role].as_tensor(), axes, flips)[0].numpy(), grid)
    found = run(stored["fixed"], stored["moving"], TINY)
    fields = {"fixed": expected.forward_mm, "moving": expected.inverse_mm}
    fields[role] = reorder(fields[role], axes, flips)
    assert torch.equal(found.forward_mm, fields["fixed"]) and torch.equal(found.inverse_mm, fields["moving"])
    np.testing.assert_array_equal(found.affine, expected.affine)


class TestDeterminism:
    def test_same_seed_same_bytes(self, images):
        first, second = (run(*images[:2], TINY, seed=3) for _ in range(2))
        assert first.forward_mm.numpy().tobytes() == second.forward_mm.numpy().tobytes()
        assert first.inverse_mm.numpy().tobytes() == second.inverse_mm.numpy().tobytes()
        assert [s["loss"] for s in first.history] == [s["loss"] for s in second.history]

    def test_another_seed_differs_a_little(self, images, result):
        other = run(*images[:2], seed=1)
        assert not torch.equal(other.forward_mm, result.forward_mm)
        assert errors(other, images[2])[1] < 2 * errors(result, images[2])[1]

    def test_the_random_state_of_the_caller_neither_matters_nor_changes(self, images):
        first = run(*images[:2], TINY)
        torch.manual_seed(123)
        state = torch.get_rng_state()
        second = run(*images[:2], TINY)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first.forward_mm, second.forward_mm)

    def test_stepping_by_hand_is_running(self, images):
        engines = [engine_of(images, TINY) for _ in range(2)]
        engines[0].run()
        for stage in TINY.stages:
            engines[1].enter(stage)
            values = [engines[1].step() for _ in range(stage.iterations)]
            assert all(v.shape == () and v.isfinite() for pair in values for v in pair)
        assert torch.equal(engines[0].forward_mm(), engines[1].forward_mm())
        assert torch.equal(engines[0].inverse_mm(), engines[1].inverse_mm())

    def test_devices_agree(self, images, device):
        here, there = run(*images[:2], TINY), run(*images[:2], TINY, device=device)
        assert difference(here.forward_mm, there.forward_mm, CUBE) < 0.05


def engine_of(images, config: RegistrationConfig, **options) -> RegistrationEngine:
    prepared = [prepare(i, None, config.quantile, torch.device("cpu")) for i in images[:2]]
    return RegistrationEngine(*prepared, config, options.pop("initial", np.eye(4)), **options)


class TestFaults:
    def test_one_hot_voxel(self, images, result):
        hot = images[1].clone()
        hot[0, 10, 20, 15] = 1e4
        found = run(images[0], hot)
        moved = target_registration_error(found.forward_mm, result.forward_mm, inner(CUBE))
        assert float(moved.mean()) < 0.05 * CUBE.spacing[0]

    @pytest.mark.parametrize("role", ["fixed", "moving"])
    @pytest.mark.parametrize("factor", [2, 1])
    def test_what_lies_outside_a_mask_does_not_matter(self, images, role, factor):
        config = dataclasses.replace(SHORT, stages=(Stage(factor, 10), Stage(factor, 15, spacing=8, learning_rate=0.08)))
        mask = torch.zeros(1, *CUBE.shape)
        mask[:, 4:28, 4:28, 4:28] = 1
        stored = {"fixed": images[0], "moving": images[1]}
        clean = run(*stored.values(), config, **{f"{role}_mask": mask_on_cube(mask)})
        garbage = torch.where(mask > 0, stored[role].as_tensor(), 100 * torch.rand(1, *CUBE.shape))
        stored[role] = image(garbage[0].numpy(), CUBE)
        dirty = run(*stored.values(), config, **{f"{role}_mask": mask_on_cube(mask)})
        assert difference(dirty.forward_mm, clean.forward_mm, CUBE, 0.95) < 0.1 * CUBE.spacing[0]

    @pytest.mark.parametrize("role", ["fixed", "moving"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_region_without_values(self, images, role, value):
        stored = {"fixed": images[0].clone(), "moving": images[1].clone()}
        stored[role][0, 10:20, 12:22, 20:30] = value
        found = run(*stored.values())
        assert found.forward_mm.isfinite().all() and found.warped_moving.isfinite().all()
        before, after = errors(found, images[2])
        assert after < before / 3, (before, after)

    def test_masks_of_half_the_image(self, images):
        mask = torch.zeros(1, *CUBE.shape)
        mask[:, :, :, 10:] = 1
        found = run(*images[:2], fixed_mask=mask_on_cube(mask), moving_mask=mask_on_cube(mask))
        chosen = inner(CUBE) * mask[0]
        error = target_registration_error(found.forward_mm, images[2], chosen).mean()
        assert float(error) < float(images[2].norm(dim=0).mean()) / 3


def mask_on_cube(mask: torch.Tensor) -> MetaTensor:
    return image(mask[0].numpy(), CUBE)


def spoil(engine: RegistrationEngine, monkeypatch, steps: set[int], direction: int = 0) -> None:
    """Make the loss of one direction NaN, and with it all of its gradients, in the steps of these numbers."""
    original, count = engine.losses[direction].forward, iter(range(10**6))

    def forward(*args, **options) -> torch.Tensor:
        value = original(*args, **options)
        return value * torch.nan if next(count) in steps else value

    monkeypatch.setattr(engine.losses[direction], "forward", forward)


class TestBadSteps:
    """A step whose gradient is not finite is left out."""

    @pytest.mark.parametrize("direction", [0, 1])
    def test_nothing_moves_in_such_a_step(self, images, monkeypatch, direction):
        engine = engine_of(images, TINY)
        spoil(engine, monkeypatch, {0}, direction)
        engine.enter(TINY.stages[1])
        before = [p.clone() for p in engine.parameters()]
        value, _ = engine.step()
        assert not value.isfinite()
        assert all(torch.equal(a, b) for a, b in zip(before, engine.parameters()))
        value, _ = engine.step()
        assert value.isfinite() and all(p.isfinite().all() for p in engine.parameters())
        assert not torch.equal(before[0], next(iter(engine.parameters())))

    def test_the_run_goes_on(self, images, monkeypatch, caplog, result):
        engine = engine_of(images, SHORT)
        spoil(engine, monkeypatch, {3, 40})
        with caplog.at_level(logging.WARNING, logger="monai_locor"):
            engine.run()
        assert caplog.text.count("1 of 25 steps were dropped") == 1 == caplog.text.count("1 of 30 steps were dropped")
        assert all(p.isfinite().all() for p in engine.parameters())
        error = target_registration_error(engine.forward_mm(), images[2], inner(CUBE)).mean()
        assert float(error) < 1.5 * errors(result, images[2])[1]


class TestRates:
    """What the optimiser of a stage is told."""

    @staticmethod
    def groups(images, config: RegistrationConfig, stage: int) -> dict[str, dict]:
        engine = engine_of(images, config)
        engine.enter(config.stages[stage])
        names = {id(p): n.split(".")[0] for n, p in engine.named_parameters()}
        return {names[id(g["params"][0])]: g for g in engine.optimizer.param_groups}

    def test_of_an_affine_stage(self, images):
        config = RegistrationConfig(stages=(Stage(4, 5), Stage(4, 5, learning_rate=0.02)), learning_rate_affine=0.003)
        plain, own = (self.groups(images, config, k) for k in range(2))
        assert set(plain) == set(own) == {"losses", "affine"}
        assert plain["affine"]["lr"] == 0.003 and own["affine"]["lr"] == 0.02
        assert plain["losses"]["lr"] == own["losses"]["lr"] == config.learning_rate_basis

    def test_of_a_dense_stage(self, images):
        stages = Stage(4, 5, spacing=8), Stage(4, 5, spacing=8, learning_rate=0.02)
        config = RegistrationConfig(stages=stages, learning_rate_affine=0.003, damping=0.7)
        plain, own = (self.groups(images, config, k) for k in range(2))
        assert plain["velocity"]["lr"] == 0.04 and own["velocity"]["lr"] == 0.02
        assert plain["affine"]["lr"] == own["affine"]["lr"] == 0.003
        assert {name: g["damping"] for name, g in own.items()} == {"losses": 0.0, "affine": 0.0, "velocity": 0.7}

    def test_without_an_affine(self, images):
        config = RegistrationConfig(stages=(Stage(4, 5, spacing=8),), affine=False)
        assert set(self.groups(images, config, 0)) == {"losses", "velocity"}

    def test_they_fall_from_the_start_of_the_decay_to_its_end(self, images):
        config = RegistrationConfig(stages=(Stage(4, 8, spacing=16, learning_rate=0.1),), decay_start=0.5, decay_end=0.2)
        engine, seen = engine_of(images, config), []
        engine.enter(config.stages[0])
        for _ in range(8):
            seen.append([g["lr"] for g in engine.optimizer.param_groups])
            engine.step()
        seen.append([g["lr"] for g in engine.optimizer.param_groups])
        share = np.array(seen) / seen[0]
        np.testing.assert_allclose(share[:5], 1)
        assert (np.diff(share[4:], axis=0) < 0).all()
        np.testing.assert_allclose(share[6], 0.6)  # half-way
        np.testing.assert_allclose(share[8], 0.2)

    def test_by_default_they_do_not_fall(self, images):
        engine = engine_of(images, TINY)
        engine.enter(TINY.stages[0])
        assert [engine.schedule.lr_lambdas[0](step) for step in range(5)] == [1.0] * 5


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

    @pytest.mark.parametrize("order", ORDERS[3::11], ids=str)
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

    def test_a_good_start_is_kept(self, images):
        found = run(*images[:2], GENTLE, initial=images[2])
        before, after = errors(found, images[2])
        # the first steps lead away, with a basis that knows nothing yet; from then on it comes back
        assert after < 0.12 * before, (before, after)

    def test_the_affine_can_be_held(self, images):
        found = run(*images[:2], dataclasses.replace(TINY, affine=False), initial=offset([1, 0, 0]))
        np.testing.assert_allclose(found.affine, offset([1, 0, 0]), atol=1e-12)
        assert float(found.forward_mm.std()) > 1e-3

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
