# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the optimizer of each stage is told: learning rates, their decay and the damping."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch

from monai_locor import RegistrationConfig, register
from monai_locor.geometry import Grid
from monai_locor.registration import RegistrationEngine, Stage, Start
from monai_locor.registration.api import prepare_task
from monai_locor.registration.optimizer import ParameterGroup
from monai_locor.registration.schedule import MAX_COARSE_SAMPLES, for_pictures
from monai_locor.registration.start.prepare import prepare

ARGUMENTS = {name: p.default for name, p in inspect.signature(register).parameters.items()}


def engine_of(config: RegistrationConfig) -> RegistrationEngine:
    grid = Grid((20, 20, 20), np.diag([2.0, 2, 2, 1]))
    images = [prepare(torch.rand(1, *grid.shape), None, 0.001, torch.device("cpu"), grid) for _ in range(2)]
    return RegistrationEngine(Start(tuple(images), np.eye(4)), config)


def groups_of(config: RegistrationConfig, stage: int) -> dict[str, ParameterGroup]:
    engine = engine_of(config)
    engine.enter(config.stages[stage])
    names = {id(p): n.split(".")[0] for n, p in engine.named_parameters()}
    return {names[id(g.parameters[0])]: g for g in engine.optimizer.groups}


def test_of_an_affine_stage():
    config = RegistrationConfig(stages=(Stage(4, 5), Stage(4, 5, learning_rate=0.02)), learning_rate_affine=0.003)
    plain, own = (groups_of(config, k) for k in range(2))
    assert set(plain) == set(own) == {"losses", "affine"}
    assert plain["affine"].rate == 0.003 and own["affine"].rate == 0.02
    assert plain["losses"].rate == own["losses"].rate == config.learning_rate_basis


def test_of_a_dense_stage():
    stages = Stage(4, 5, spacing=8), Stage(4, 5, spacing=8, learning_rate=0.02)
    config = RegistrationConfig(stages=stages, learning_rate_affine=0.003, damping=0.7)
    plain, own = (groups_of(config, k) for k in range(2))
    assert plain["velocity"].rate == 0.08 and own["velocity"].rate == 0.02
    assert plain["affine"].rate == own["affine"].rate == 0.003
    assert {name: g.damping for name, g in own.items()} == {"losses": 0.0, "affine": 0.0, "velocity": 0.7}


def test_without_an_affine():
    config = RegistrationConfig(stages=(Stage(4, 5, spacing=8),), affine=False)
    assert set(groups_of(config, 0)) == {"losses", "velocity"}


def rates_of(config: RegistrationConfig, steps: int) -> dict[str, np.ndarray]:
    """Learning rates of the first stage, one more than there are steps, relative to what the stage says."""
    return {name: np.array([g.factor(n) for n in range(steps + 1)]) for name, g in groups_of(config, 0).items()}


def test_they_fall_from_the_start_of_the_decay_to_its_end():
    stage = Stage(4, 8, spacing=16, learning_rate=0.1)
    rates = rates_of(RegistrationConfig(stages=(stage,), warmup=0, decay_start=0.5, decay_end=0.2), 8)
    for name in ("affine", "velocity"):
        np.testing.assert_allclose(rates[name][:5], 1)
        assert (np.diff(rates[name][4:]) < 0).all()
        np.testing.assert_allclose(rates[name][6], 0.6)  # half-way
        np.testing.assert_allclose(rates[name][8], 0.2)


def test_they_rise_in_the_first_steps():
    stage = Stage(4, 6, spacing=16, learning_rate=0.1)
    rates = rates_of(RegistrationConfig(stages=(stage,), warmup=3, decay_end=1.0), 6)
    for name in ("affine", "velocity"):
        np.testing.assert_allclose(rates[name], [0.25, 0.5, 0.75, 1, 1, 1, 1])


def test_the_basis_never_stops_learning():
    rates = rates_of(RegistrationConfig(stages=(Stage(4, 6, spacing=16),), warmup=3, decay_end=0.0), 6)
    np.testing.assert_allclose(rates["losses"], 1)
    np.testing.assert_allclose(rates["velocity"][-1], 0, atol=1e-12)


class TestPictures:
    @pytest.mark.parametrize("name", ["default", "fast", "draft"])
    @pytest.mark.parametrize("size", [40, 256, 257, 900, 10_000])
    def test_start_coarse_and_end_fine(self, name, size):
        given = RegistrationConfig.of(name).stages
        found = for_pictures(given, size)
        factors = [stage.factor for stage in found]
        assert size / max(factors) <= MAX_COARSE_SAMPLES and factors == sorted(factors, reverse=True)
        assert found[-1] == given[-1] and (found == given) == (size <= 256)
        ratios = [[s.spacing / s.factor for s in stages if s.spacing] for stages in (given, found)]
        assert ratios[1][: len(ratios[0])] == ratios[0] and set(ratios[1][len(ratios[0]) :]) <= {ratios[0][-1]}
        assert for_pictures(found, size) == found  # a run repeated from its settings has the same stages

    def test_own_stages_stay(self):
        own = (Stage(2, 5), Stage(1, 5, spacing=4))
        assert for_pictures(own, 5000) == own

    def test_registration_of_a_picture_uses_them(self):
        image = torch.rand(1, 300, 20)
        config = dataclasses.replace(RegistrationConfig.of("draft"), multistart="never")
        task = prepare_task({**ARGUMENTS, "fixed": image, "moving": image.clone(), "preset": config}, torch.device("cpu"))
        assert task.config.stages == for_pictures(config.stages, 300) != config.stages
        volume = torch.rand(1, 300, 4, 4)
        task = prepare_task({**ARGUMENTS, "fixed": volume, "moving": volume.clone(), "preset": config}, torch.device("cpu"))
        assert task.config == config

    @pytest.mark.parametrize("sigma", [0.8, 1.3, 2.0])
    def test_windows_hold_as_many_samples_as_in_three_dimensions(self, sigma):
        counts = []
        for dims in (2, 3):
            width = RegistrationConfig(kernel_sigma=sigma).window_sigma(dims, 512)
            weights = np.exp(-(np.arange(-30, 31) ** 2) / (2 * width**2))
            counts.append((weights.sum() ** 2 / (weights**2).sum()) ** dims)
        assert counts[0] == pytest.approx(counts[1], rel=0.02)
