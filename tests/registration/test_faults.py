# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The engine: bad voxels, masks and steps do no harm."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig
from monai_locor.metrics import target_registration_error
from monai_locor.quality.measures import convergence
from monai_locor.registration import RegistrationEngine, Stage, optimize
from monai_locor.registration.optimizer import DampedAdam, ParameterGroup
from monai_locor.registration.stages import run_stage

from ..parameters import mostly_slow
from ..phantoms import CUBE, PLANE, image, pair
from .short_runs import SHORT, TINY, difference, engine_of, errors, inner, run


class TestFaults:
    @pytest.mark.slow
    def test_one_hot_voxel(self, images, result):
        hot = images[1].clone()
        hot[0, 10, 20, 15] = 1e4
        found = run(images[0], hot)
        moved = target_registration_error(found.forward_mm, result.forward_mm, inner(CUBE))
        assert float(moved.mean()) < 0.05 * CUBE.spacing[0]

    @pytest.mark.parametrize("role", mostly_slow(["fixed", "moving"]))
    @pytest.mark.parametrize("factor", mostly_slow([2, 1]))
    def test_what_lies_outside_a_mask_does_not_matter(self, images, role, factor):
        config = dataclasses.replace(SHORT, stages=(Stage(factor, 4), Stage(factor, 6, spacing=8, learning_rate=0.08)))
        mask = torch.zeros(1, *CUBE.shape)
        mask[:, 4:28, 4:28, 4:28] = 1
        stored = {"fixed": images[0], "moving": images[1]}
        clean = run(*stored.values(), config, **{f"{role}_mask": mask_on_cube(mask)})
        garbage = torch.where(mask > 0, stored[role].as_tensor(), 100 * torch.rand(1, *CUBE.shape))
        stored[role] = image(garbage[0].numpy(), CUBE)
        dirty = run(*stored.values(), config, **{f"{role}_mask": mask_on_cube(mask)})
        assert difference(dirty.forward_mm, clean.forward_mm, CUBE, 0.95) < 0.1 * CUBE.spacing[0]

    @pytest.mark.parametrize("role", mostly_slow(["fixed", "moving"]))
    @pytest.mark.parametrize("value", mostly_slow([float("nan"), float("inf")]))
    def test_a_region_without_values(self, role, value):
        *pictures, truth = pair(PLANE, PLANE)
        stored = dict(zip(("fixed", "moving"), pictures, strict=True))
        stored[role][0, 10:20, 12:22] = value
        found = run(*stored.values())
        assert found.forward_mm.isfinite().all() and found.warped_moving.isfinite().all()
        before, after = errors(found, truth)
        assert after < before / 3, (before, after)

    @pytest.mark.slow
    def test_masks_of_half_the_image(self, images):
        mask = torch.zeros(1, *CUBE.shape)
        mask[:, :, :, 10:] = 1
        found = run(*images[:2], fixed_mask=mask_on_cube(mask), moving_mask=mask_on_cube(mask))
        chosen = inner(CUBE) * mask[0]
        error = target_registration_error(found.forward_mm, images[2], chosen).mean()
        assert float(error) < float(images[2].norm(dim=0).mean()) / 3


def mask_on_cube(mask: torch.Tensor) -> MetaTensor:
    return image(mask[0].numpy(), CUBE)


def spoil(engine: RegistrationEngine, monkeypatch, steps: set[int], direction: int = 0, factor: float = torch.nan) -> None:
    """Multiply the loss of one direction, and with it all of its gradients, in the steps of these numbers."""
    original, count = engine.losses[direction].forward, iter(range(10**6))

    def forward(*args, **options) -> torch.Tensor:
        value = original(*args, **options)
        return value * factor if next(count) in steps else value

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

    def test_the_step_before_is_undone_and_the_rate_halved(self, images, monkeypatch):
        engine = engine_of(images, TINY)
        spoil(engine, monkeypatch, {2})
        engine.enter(dataclasses.replace(TINY.stages[1], iterations=40))
        states = []
        for _ in range(4):
            states.append(torch.cat([p.detach().flatten().clone() for p in engine.parameters()]))
            engine.step()
        assert float((states[2] - states[1]).abs().max()) > 1e-3
        torch.testing.assert_close(states[3], states[1], atol=1e-6, rtol=1e-5)
        assert engine.optimizer.scale.tolist() == [0.5]

    def test_a_loss_that_rises_by_half_is_a_failed_step(self, images, monkeypatch):
        engine = engine_of(images, TINY)
        spoil(engine, monkeypatch, {2}, factor=-1.0)
        engine.enter(TINY.stages[1])
        for _ in range(4):
            engine.step()
        assert engine.optimizer.scale.tolist() == [0.5]

    @pytest.mark.parametrize("factor", [-1.0, torch.nan])
    def test_undone_steps_are_recorded_and_told(self, images, monkeypatch, caplog, factor):
        """Also where every loss is finite."""
        engine, stage = engine_of(images, TINY), dataclasses.replace(TINY.stages[1], iterations=6)
        spoil(engine, monkeypatch, {2, 4}, factor=factor)
        with caplog.at_level(logging.WARNING, logger="monai_locor"):
            run_stage(engine, stage, lambda: None)
        (record,) = engine.history
        assert record["undone_steps"] == 2
        assert (None in record["loss"]) == math.isnan(factor)
        assert "2 of 6 steps were undone" in caplog.text
        assert convergence(engine.history)["skipped_steps"] == 2 / 6

    def test_so_many_failures_that_the_rate_is_zero(self):
        optimizer = DampedAdam([ParameterGroup([torch.zeros(1)], 1.0)], 1)
        failed = torch.ones(1, dtype=torch.bool)
        counts = []
        for _ in range(160):
            optimizer.step(torch.zeros(1), failed)
            counts += optimizer.failed_steps()
        assert counts == [*range(1, 150), *[150] * 11]

    @pytest.mark.parametrize("seed", range(3))
    def test_nothing_that_is_not_finite_leaves_the_engine(self, seed):
        """A similarity whose value and gradient are NaN, infinite or huge at random."""

        class Spoiled(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.draws = np.random.default_rng(seed)

            def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
                value = (pred - target).square().mean()
                return value * float(self.draws.choice([1.0, 1.0, np.nan, np.inf, 1e30, -1e38]))

        stages = (Stage(2, 5), Stage(2, 8, spacing=8), Stage(1, 4, spacing=8))
        config = RegistrationConfig(stages=stages, multistart="never", undo_worse=False)
        found = run(*pair(PLANE, PLANE)[:2], config, similarity=Spoiled())
        for values in (found.forward_mm, found.inverse_mm, found.warped_moving, torch.from_numpy(found.affine)):
            assert torch.isfinite(values).all()

    @pytest.mark.slow
    def test_the_run_goes_on(self, images, monkeypatch, caplog, result):
        engine = engine_of(images, SHORT)
        spoil(engine, monkeypatch, {3, 40})
        with caplog.at_level(logging.WARNING, logger="monai_locor"):
            optimize(engine)
        assert caplog.text.count("1 of 30 steps were undone") == 2
        assert all(p.isfinite().all() for p in engine.parameters())
        error = target_registration_error(engine.forward_mm(), images[2], inner(CUBE)).mean()
        assert float(error) < 1.5 * errors(result, images[2])[1]
