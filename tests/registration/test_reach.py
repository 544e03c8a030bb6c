# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A small field of view in a large one: what is out of reach is not looked at, and the grids stay as they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig
from monai_locor.geometry import Grid, apply_affine, inside, mapped_points, sample
from monai_locor.registration import RegistrationEngine, Stage, Start, optimize
from monai_locor.registration.start.prepare import prepare
from monai_locor.registration.start.reach import box_within, reachable, reached_box

from ..parameters import mostly_slow
from ..phantoms import anatomy, grid_of, image, other_modality
from .short_runs import run

CPU = torch.device("cpu")
SLAB = grid_of((24, 24, 8), (3.0, 3.0, 5.0), (3.0, -2.0, 20.0), 0.2)
BODY = grid_of((34, 32, 120), (3.0, 3.0, 3.0), (0.0, 0.0, -100.0))
SHORT = RegistrationConfig(
    stages=(Stage(2, 20, learning_rate=1e-2), Stage(1, 8, spacing=8, learning_rate=0.08)), multistart="never"
)
SHIFT = np.array([4.0, -3.0, 3.0])


def contents(world: np.ndarray) -> np.ndarray:
    """The anatomy, and further down something else that is much brighter."""
    return np.where(world[..., 2] < -60, 40 + 30 * np.cos(world / 9).sum(-1), anatomy(world))


def pair(fixed: Grid, moving: Grid) -> tuple[MetaTensor, MetaTensor]:
    seen = contents(fixed.points() + SHIFT)
    return image(np.where(seen > 2, seen, other_modality(seen)), fixed), image(contents(moving.points()), moving)


def away(affine: np.ndarray, points: np.ndarray) -> float:
    return float(np.linalg.norm(apply_affine(affine, points) - points - SHIFT, axis=-1).mean())


@pytest.fixture(scope="module", params=mostly_slow(["moving", "fixed"]))
def result(request):
    """The large image is the moving or the fixed one."""
    fixed, moving = (SLAB, BODY) if request.param == "moving" else (BODY, SLAB)
    return run(*pair(fixed, moving), SHORT, initial=np.eye(4))


def test_the_grids_stay_as_they_are(result):
    assert result.forward_mm.shape[1:] == result.fixed_grid.shape == result.warped_moving.shape[1:]
    assert result.inverse_mm.shape[1:] == result.moving_grid.shape == result.warped_fixed.shape[1:]
    assert result.forward_mm.isfinite().all() and result.inverse_mm.isfinite().all()


def test_it_is_found(result):
    shared = SLAB.points() if result.fixed_grid.shape == SLAB.shape else SLAB.points() - SHIFT
    assert away(result.affine, shared) < 1.5


def test_both_directions_undo_each_other_wherever_they_meet(result):
    points = mapped_points(result.fixed_grid, result.moving_grid, result.forward_mm)
    back = sample(result.inverse_mm[None], points.float()[None], padding_mode="border")[0]
    error = torch.linalg.vector_norm(result.forward_mm + back, dim=0)[inside(points, result.moving_grid.shape)]
    assert float(error.quantile(0.95)) < 0.1


def test_out_of_reach_the_affine_goes_on(result):
    """The deformation stays as it is at the border of what was looked at."""
    for field, grid, affine in (
        (result.forward_mm, result.fixed_grid, result.affine),
        (result.inverse_mm, result.moving_grid, np.linalg.inv(result.affine)),
    ):
        if grid.shape == BODY.shape:
            rest = field.movedim(0, -1).numpy() - (apply_affine(affine, grid.points()) - grid.points())
            np.testing.assert_allclose(rest[..., :20, :], rest[..., :1, :].repeat(20, -2), atol=0.1)


def test_the_intensity_range_is_that_of_the_part():
    whole = prepare(image(contents(BODY.points()), BODY), None, 0.001, CPU)
    part = reachable(whole, SLAB, np.eye(4), 0.001)
    assert part.grid.shape[2] < 60 and part.grid.shape[:2] == whole.grid.shape[:2]
    inside_whole = whole.image[(slice(None), *box_within(part.grid, whole.grid))]
    assert np.ptp(inside_whole.numpy()) < 0.02 and np.ptp(part.image.numpy()) > 0.95
    np.testing.assert_allclose(np.corrcoef(inside_whole.flatten(), part.image.flatten())[0, 1], 1, atol=1e-3)


class TestReach:
    def test_holds_every_turn_and_a_shift(self):
        """By 35 degrees about any axis, and by a tenth of the longest side."""
        box = reached_box(BODY, SLAB, np.eye(4))
        middle = SLAB.center
        rng = np.random.default_rng(0)
        for axis in rng.normal(size=(20, 3)):
            log = np.cross(np.eye(3), axis / np.linalg.norm(axis) * np.deg2rad(35))
            turn = torch.linalg.matrix_exp(torch.from_numpy(log)).numpy()
            moved = (SLAB.corners() - middle) @ turn.T + middle + 0.1 * SLAB.extent.max() * axis / np.linalg.norm(axis)
            voxels = apply_affine(np.linalg.inv(BODY.affine), moved).clip(0, np.array(BODY.shape) - 1)
            assert all((b.start <= v).all() and (v <= b.stop - 1).all() for b, v in zip(box, voxels.T, strict=True))

    def test_an_image_that_is_mostly_in_reach_stays(self):
        whole = prepare(image(contents(BODY.points()), BODY), None, 0.001, CPU)
        near = grid_of((30, 30, 40), (3.0, 3.0, 3.0))
        assert reachable(whole, near, np.eye(4), 0.001) is whole
        assert reachable(whole, SLAB, np.eye(4), 0.001, beyond=200.0) is whole

    @pytest.mark.slow
    def test_fields_of_view_apart_stay(self):
        whole = prepare(image(contents(BODY.points()), BODY), None, 0.001, CPU)
        start = np.eye(4)
        start[2, 3] = 5000
        assert reachable(whole, SLAB, start, 0.001) is whole

    def test_two_dimensions(self):
        plane = grid_of((40, 200), (1.0, 1.0), (0.0, 0.0))
        small = grid_of((20, 20), (1.0, 1.0), (0.0, 30.0))
        assert reached_box(plane, small, np.eye(3)) == (slice(0, 40), slice(109, 151))

    @pytest.mark.slow
    def test_a_mask_that_is_elsewhere_keeps_the_whole(self):
        weight = torch.zeros(1, *BODY.shape)
        weight[..., :10] = 1
        whole = prepare(image(contents(BODY.points()), BODY), weight, 0.001, CPU)
        assert reachable(whole, SLAB, np.eye(4), 0.001) is whole
        whole = dataclasses.replace(whole, weight=1 - whole.weight)
        assert reachable(whole, SLAB, np.eye(4), 0.001).weight.all()


class TestEngine:
    BRIEF = RegistrationConfig(stages=(Stage(4, 1), Stage(4, 1, spacing=16)))

    def engine(self, fixed: Grid, moving: Grid, **options) -> RegistrationEngine:
        prepared = [prepare(i, None, 0.001, CPU) for i in pair(fixed, moving)]
        return RegistrationEngine(Start(tuple(prepared), **{"affine": np.eye(4), **options}), self.BRIEF)

    @pytest.mark.slow
    def test_looks_at_the_part(self):
        engine = self.engine(SLAB, BODY)
        engine.enter(self.BRIEF.stages[0])
        assert np.prod(engine.levels[0].other_grid.shape) < 0.5 * np.prod(BODY.shape)
        assert engine.fixed.grid.shape == SLAB.shape

    @pytest.mark.slow
    def test_another_start_looks_elsewhere(self):
        engine = self.engine(SLAB, BODY)
        first = engine.moving.grid
        start = np.eye(4)
        start[2, 3] = -150
        engine = self.engine(SLAB, BODY, affine=start)
        assert engine.moving.grid.shape == first.shape
        np.testing.assert_allclose(engine.moving.grid.center - first.center, [0, 0, -150], atol=3)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["velocity", "displacement", "predict"])
    def test_what_is_given_on_the_whole_fixed_grid_keeps_it(self, name):
        field = torch.zeros(3, *BODY.shape)
        engine = self.engine(BODY, SLAB, **{name: (lambda _: field) if name == "predict" else field})
        assert engine.fixed.grid.shape == BODY.shape and optimize(engine).forward_mm().shape == field.shape
