# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the tests of landmarks and of labels share: points, settings, and the tests of a step with either."""

from __future__ import annotations

import pytest
import torch

from monai_locor import RegistrationConfig
from monai_locor.geometry import Grid
from monai_locor.networks.velocity import SplineVelocity
from monai_locor.registration import Stage
from monai_locor.registration.engine import RegistrationEngine

from .software_graph import recorded_step
from .test_launches import Counting

FIXED = [[-8.0, -6.0], [9.0, 4.0], [0.0, 10.0]]
MOVING = [[-7.0, -8.0], [11.0, 4.0], [1.0, 9.0]]
STAGES = (Stage(2, 10), Stage(2, 20, spacing=8, learning_rate=0.08))
QUICK = RegistrationConfig(stages=STAGES, multistart="never", intersubject="never", decay_end=0.02)


def some_map(grid: Grid, seed: int = 3) -> tuple[SplineVelocity, torch.Tensor, torch.Tensor]:
    """A velocity, and the matrices and displacements of both directions; float64."""
    generator = torch.Generator().manual_seed(seed)
    velocity = SplineVelocity(grid, 12.0, 3.0, 6.0)
    with torch.no_grad():
        velocity.coefficients.copy_(0.3 * torch.randn(velocity.coefficients.shape, generator=generator))
        fields = velocity.reversed()
    matrix = torch.eye(grid.dims + 1, dtype=torch.float64)
    matrix[:-1] += 0.05 * torch.randn(grid.dims, grid.dims + 1, generator=generator, dtype=torch.float64)
    return velocity, torch.stack((matrix, matrix.inverse())), fields


class GuidedSteps:
    """Tests of a step; a subclass makes the engine, with landmarks or labels, at the start of a stage."""

    def engine(self, stage: Stage) -> RegistrationEngine:
        raise NotImplementedError

    @pytest.mark.parametrize("stage", STAGES, ids=str)
    def test_it_does_not_wait(self, stage):
        engine = self.engine(stage)
        engine.step()
        with Counting() as counting:
            engine.step()
        assert not counting.record.waits

    def test_it_can_be_replayed(self):
        expected, found = self.engine(STAGES[1]), self.engine(STAGES[1])
        values = [expected.step() for _ in range(4)]
        windows, recorded, results = recorded_step(found)
        for value in values[2:]:
            windows.draw((0, 1))
            recorded.replay()
            torch.testing.assert_close(results, value, rtol=0, atol=0)
