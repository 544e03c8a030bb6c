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


"""What the optimiser of each stage is told: learning rates, their decay and the damping."""

from __future__ import annotations

import numpy as np
import torch

from monai_locor import RegistrationConfig
from monai_locor.geometry import Grid
from monai_locor.registration import RegistrationEngine, Stage
from monai_locor.registration.prepare import prepare


def engine_of(config: RegistrationConfig) -> RegistrationEngine:
    grid = Grid((20, 20, 20), np.diag([2.0, 2, 2, 1]))
    images = [prepare(torch.rand(1, *grid.shape), None, 0.001, torch.device("cpu"), grid) for _ in range(2)]
    return RegistrationEngine(*images, config, np.eye(4))


def groups_of(config: RegistrationConfig, stage: int) -> dict[str, dict]:
    engine = engine_of(config)
    engine.enter(config.stages[stage])
    names = {id(p): n.split(".")[0] for n, p in engine.named_parameters()}
    return {names[id(g["params"][0])]: g for g in engine.optimizer.param_groups}


def test_of_an_affine_stage():
    config = RegistrationConfig(stages=(Stage(4, 5), Stage(4, 5, learning_rate=0.02)), learning_rate_affine=0.003)
    plain, own = (groups_of(config, k) for k in range(2))
    assert set(plain) == set(own) == {"losses", "affine"}
    assert plain["affine"]["lr"] == 0.003 and own["affine"]["lr"] == 0.02
    assert plain["losses"]["lr"] == own["losses"]["lr"] == config.learning_rate_basis


def test_of_a_dense_stage():
    stages = Stage(4, 5, spacing=8), Stage(4, 5, spacing=8, learning_rate=0.02)
    config = RegistrationConfig(stages=stages, learning_rate_affine=0.003, damping=0.7)
    plain, own = (groups_of(config, k) for k in range(2))
    assert plain["velocity"]["lr"] == 0.04 and own["velocity"]["lr"] == 0.02
    assert plain["affine"]["lr"] == own["affine"]["lr"] == 0.003
    assert {name: g["damping"] for name, g in own.items()} == {"losses": 0.0, "affine": 0.0, "velocity": 0.7}


def test_without_an_affine():
    config = RegistrationConfig(stages=(Stage(4, 5, spacing=8),), affine=False)
    assert set(groups_of(config, 0)) == {"losses", "velocity"}


def test_they_fall_from_the_start_of_the_decay_to_its_end():
    config = RegistrationConfig(stages=(Stage(4, 8, spacing=16, learning_rate=0.1),), decay_start=0.5, decay_end=0.2)
    engine, seen = engine_of(config), []
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


def test_by_default_they_do_not_fall():
    config = RegistrationConfig(stages=(Stage(4, 8),))
    engine = engine_of(config)
    engine.enter(config.stages[0])
    assert [engine.schedule.lr_lambdas[0](step) for step in range(5)] == [1.0] * 5
