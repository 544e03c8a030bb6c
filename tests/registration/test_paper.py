# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The preset ``"paper"``: its values, its bending energy, and the settings that only it changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid
from monai_locor.losses.bending import bending_energy
from monai_locor.losses.intensity import robust_range
from monai_locor.networks.composition import StagedVelocity
from monai_locor.registration import PRESETS, RegistrationConfig, Stage
from monai_locor.registration.pyramid import make_level
from monai_locor.registration.start.prepare import PreparedImage, prepare

from ..phantoms import CUBE, PLANE, anatomy, grid_of, image, pair
from .short_runs import difference, engine_of, errors, run

PAPER = PRESETS["paper"]
SMALL = dataclasses.replace(  # what suits 32^3 voxels
    PAPER, stages=(Stage(2, 16), Stage(2, 20, spacing=8, learning_rate=0.04), Stage(2, 4, spacing=4, learning_rate=0.02))
)


class TestValues:
    def test_schedule(self):
        """Factor, spacing, steps and rate of each stage, the rates in spacings of the control points."""
        assert [(s.factor, s.spacing, s.iterations) for s in PAPER.stages] == [
            (2, None, 80), (4, 32, 80), (4, 16, 80), (2, 8, 40), (2, 4, 40), (1, 4, 40)
        ]  # fmt: skip
        assert [s.learning_rate for s in PAPER.stages] == [None, 0.16, 0.16, 0.08, 0.08, 0.04]
        assert (PAPER.learning_rate_affine, PAPER.learning_rate_basis) == (5e-3, 1e-2)

    def test_measure(self):
        assert (PAPER.similarity, PAPER.form, PAPER.basis) == ("locor", "log", "learned")
        assert (PAPER.num_basis, PAPER.hidden_channels, PAPER.stride) == (5, (16, 16), 3)
        assert (PAPER.ridge, PAPER.eps) == (1e-4, 1e-4)
        assert (PAPER.derivative, PAPER.derivative_unit) == ("both", "voxel")
        assert PAPER.kernel_sigma == 0.8 and PAPER.truncated * 0.8 == pytest.approx(3 * 0.8 + 3 / 2)

    def test_optimizer(self):
        assert (PAPER.damping, PAPER.warmup, PAPER.decay_end, PAPER.squarings) == (0, 0, 1, 6)
        assert PAPER.composition == "stages" and PAPER.affine

    def test_nothing_around_it(self):
        assert (PAPER.multistart, PAPER.intersubject, PAPER.undo_worse) == ("never", "never", False)
        assert (PAPER.quantile, PAPER.region) == (0, "image")


class TestBendingEnergy:
    @pytest.mark.parametrize("factor", [1, 2])
    def test_weighs_what_the_papers_does(self, images, factor):
        """Written out in millimeters as the paper defines it, on the points of our lattice."""
        engine = engine_of(images, dataclasses.replace(SMALL, stages=(Stage(factor, 1, spacing=8),)))
        engine.enter(engine.config.stages[0])
        field = torch.randn(1, 3, *engine.velocity.shape)
        ours = float(engine.bending_weight * bending_energy(field))
        weight, dims = 4e2 * (factor * CUBE.spacing.min()) ** 2, 3
        assert float(
            weight / 2 * papers_energy(field[0].double().numpy() * engine.velocity.step, engine.velocity.step, dims)
        ) == (pytest.approx(ours, rel=1e-4))

    def test_two_dimensions_need_another_weight(self):
        """1 / n^2 and half of it: 22.2 in 3-D, 50 in 2-D."""
        config = dataclasses.replace(SMALL, stages=(Stage(2, 1, spacing=8),), bending_weight=50.0)
        engine = engine_of(pair(PLANE, PLANE), config, initial=np.eye(3))
        engine.enter(engine.config.stages[0])
        field = torch.randn(1, 2, *engine.velocity.shape)
        step = engine.velocity.step
        expected = 4e2 * (2 * PLANE.spacing.min()) ** 2 / 2 * papers_energy(field[0].double().numpy() * step, step, 2)
        assert float(engine.bending_weight * bending_energy(field)) == pytest.approx(float(expected), rel=1e-3)


def papers_energy(field: np.ndarray, step: float, dims: int) -> float:
    """``1 / n^2`` times the sum over ``i <= j`` of ``m_ij`` times the mean square of the second derivatives, mm."""
    inner = (slice(1, -1),) * dims
    total = 0.0
    for i in range(dims):
        for j in range(i, dims):
            if i == j:
                second = (np.roll(field, 1, i + 1) - 2 * field + np.roll(field, -1, i + 1)) / step**2
            else:
                first = (np.roll(field, -1, i + 1) - np.roll(field, 1, i + 1)) / (2 * step)
                second = (np.roll(first, -1, j + 1) - np.roll(first, 1, j + 1)) / (2 * step)
            total += (1 if i == j else 2) * np.square(second[(slice(None), *inner)]).mean()
    return total / dims**2


class TestRun:
    @pytest.mark.slow
    def test_it_finds_the_deformation(self, images):
        fixed, moving, truth = images
        result = run(fixed, moving, SMALL)
        before, after = errors(result, truth)
        assert len(result.history) == 3 and not result.intersubject
        assert after < 0.5 * before, (before, after)
        assert result.jacobian["folding_voxels"] == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("grid", [CUBE, PLANE], ids=["3d", "2d"])
    def test_the_whole_schedule_goes_through(self, grid):
        stages = [dataclasses.replace(s, iterations=2) for s in PAPER.stages]
        result = run(*pair(grid, grid)[:2], dataclasses.replace(PAPER, stages=tuple(stages)))
        assert [len(stage["loss"]) for stage in result.history] == [2] * 6
        assert all(np.isfinite(stage["loss"]).all() for stage in result.history)
        assert result.forward_mm.isfinite().all() and result.inverse_mm.isfinite().all()

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_bytes(self, images):
        short = dataclasses.replace(SMALL, stages=tuple(dataclasses.replace(s, iterations=2) for s in SMALL.stages))
        first, second = (run(*images[:2], short) for _ in range(2))
        assert torch.equal(first.forward_mm, second.forward_mm)


class TestComposition:
    @pytest.mark.slow
    def test_a_stage_begins_where_the_last_one_ended(self, images):
        engine = engine_of(images, SMALL)
        for stage in SMALL.stages[:2]:
            engine.enter(stage)
            for _ in range(8):
                engine.step()
        before = engine.forward_mm()
        engine.enter(SMALL.stages[2])
        assert isinstance(engine.velocity, StagedVelocity) and not engine.velocity.coefficients.any()
        assert float(before.abs().max()) > 1
        # to a tenth of a voxel: the lattice had a point every four voxels, and now has one every two
        assert difference(engine.forward_mm(), before, CUBE, 0.95) < 0.1 * CUBE.spacing[0]

    def test_an_initial_velocity_is_the_start(self, images):
        velocity = torch.ones(3, *CUBE.shape)
        fields = []
        for composition in ("single", "stages"):
            engine = engine_of(images, dataclasses.replace(SMALL, composition=composition), velocity=velocity)
            engine.enter(SMALL.stages[1])
            fields.append(engine.forward_mm())
        torch.testing.assert_close(*fields, atol=1e-3, rtol=0)
        torch.testing.assert_close(fields[0], velocity, atol=1e-3, rtol=0)


class TestUndo:
    WILD = (Stage(2, 20), Stage(2, 6, 8, learning_rate=0.5))

    @pytest.mark.slow
    @pytest.mark.parametrize("undo", [True, False])
    def test_a_stage_that_made_it_worse_stays_where_it_is_not_undone(self, undo, caplog):
        same = image(anatomy(CUBE.points()), CUBE)
        result = run(same, same, RegistrationConfig(stages=self.WILD, multistart="never", undo_worse=undo))
        only = run(same, same, RegistrationConfig(stages=self.WILD[:1], multistart="never"))
        moved = float((result.forward_mm - only.forward_mm).abs().max())
        assert ("was undone" in caplog.text) == undo
        assert moved < 1e-3 if undo else moved > 0.1


class TestRegion:
    GRID = grid_of((40, 30, 20), (1.0, 1.0, 1.0))

    def level(self, region: str, weight: torch.Tensor | None = None):
        values = torch.zeros(1, *self.GRID.shape)
        values[0, 18:22, 14:18, 9:11] = 1
        prepared = PreparedImage(values, weight, self.GRID, self.GRID, (0, 1, 2), (False,) * 3)
        return make_level(prepared, prepared, 1, region=region)

    def test_all_of_the_image_or_the_box_of_the_foreground(self):
        assert self.level("image").grid.shape == self.GRID.shape
        assert self.level("foreground").grid.shape == (16, 16, 14)

    def test_with_a_mask_the_box_around_it(self):
        weight = torch.zeros(1, *self.GRID.shape)
        weight[0, 10:31, 10:24, 8:13] = 1
        # eroded by one voxel, because nothing is smoothed; and six on either side
        assert self.level("image", weight).grid.shape == (19 + 12, 12 + 12, 3 + 12)


class TestDerivativeUnit:
    @pytest.mark.parametrize("factor", [1, 2, 4])
    @pytest.mark.parametrize("spacing", [1.0, 2.5])
    def test_of_a_sample_is_that_of_so_many_voxels(self, factor, spacing):
        grid = grid_of((36, 36, 36), (spacing,) * 3)
        prepared = prepare(torch.rand(1, *grid.shape), None, 0.001, torch.device("cpu"), grid)
        samples, voxels = (make_level(prepared, prepared, factor, "both", unit) for unit in ("sample", "voxel"))
        ratio = samples.grid.spacing.min() / grid.spacing.min()
        for one, other in ((samples.reference, voxels.reference), (samples.other, voxels.other)):
            assert torch.equal(one[:, 0], other[:, 0])
            torch.testing.assert_close(one[:, 1], other[:, 1] * ratio)


class TestQuantile:
    def test_at_zero_the_extremes_of_all_voxels(self):
        """However far apart the voxels are that quantiles are taken from."""
        values = torch.rand(1, 1, 70, 71, 72)
        for at, extreme in ((12345, -3.0), (234567, 7.0)):
            values.view(-1)[at] = extreme
        low, high = robust_range(values, None, 0.0)
        assert (float(low), float(high)) == (-3, 7)

    def test_intensities_are_in_the_unit_interval(self):
        grid = Grid((70, 71, 72), np.eye(4))
        values = torch.randn(1, *grid.shape).exp()
        found = prepare(values, None, PAPER.quantile, torch.device("cpu"), grid).image
        assert (float(found.min()), float(found.max())) == (0, 1)
