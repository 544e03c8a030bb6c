# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Rigid, similar and affine registrations: what is found is of its kind, wherever it started."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch

from monai_locor import InputError, RegistrationConfig
from monai_locor.geometry import Grid, apply_affine
from monai_locor.networks.affine import AFFINE_KINDS, AffineMap, matrix_exponential
from monai_locor.registration import Stage

from ..parameters import mostly_slow
from ..phantoms import CUBE, PLANE, anatomy, image, other_modality
from .short_runs import run

STAGES = (Stage(2, 30, learning_rate=1e-2), Stage(2, 5, spacing=8), Stage(1, 4, spacing=4))
TILTED = Grid((32, 30, 28), np.array([[2.0, 0, 0, -31], [0, 2.0, 0, -29], [0.3, 0.5, 2, -28], [0, 0, 0, 1]]))


def motion(dims: int, scale: float = 1.0) -> np.ndarray:
    log = torch.zeros(dims, dims, dtype=torch.float64)
    log[0, 1], log[1, 0] = 0.1, -0.1
    matrix = np.eye(dims + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = scale * matrix_exponential(log).numpy(), [3.0, -2.0, 1.5][:dims]
    return matrix


def pair(matrix: np.ndarray, grid: Grid):
    return image(other_modality(anatomy(apply_affine(matrix, grid.points()))), grid), image(anatomy(grid.points()), grid)


def lengths(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix[:-1, :-1], compute_uv=False)


def is_of(kind: str, matrix: np.ndarray) -> bool:
    scale = 1.0 if kind == "rigid" else lengths(matrix).mean()
    return bool(np.abs(lengths(matrix) / scale - 1).max() < 1e-6 and np.linalg.det(matrix) > 0)


@pytest.mark.parametrize("grid", [CUBE, PLANE, TILTED], ids=["cube", "plane", "tilted"])
@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_a_map_is_of_its_kind_whatever_its_parameters(kind, grid):
    module = AffineMap(grid, None, kind)
    with torch.no_grad():
        module.log_matrix.copy_(0.2 * torch.randn_like(module.log_matrix))
        forward, inverse = (module(back).numpy() for back in (False, True))
    np.testing.assert_allclose(forward @ inverse, np.eye(grid.dims + 1), atol=1e-9)
    assert [is_of(k, forward) for k in AFFINE_KINDS[:-1]] == [kind == "rigid", kind != "affine"]


@pytest.mark.parametrize("dims", mostly_slow([2, 3]))
@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_a_registration_finds_a_map_of_its_kind(kind, dims):
    grid = {2: PLANE, 3: CUBE}[dims]
    truth = motion(dims, 1.0 if kind == "rigid" else 1.06)
    result = run(*pair(truth, grid), RegistrationConfig(stages=STAGES, multistart="never"), transform=kind)
    assert kind == "affine" or is_of(kind, result.affine)
    points = grid.points()
    away = np.linalg.norm(apply_affine(result.affine, points) - apply_affine(truth, points), axis=-1)
    assert away.mean() < 0.5 * np.min(grid.spacing)
    moved = apply_affine(result.affine, points) - points
    np.testing.assert_allclose(result.forward_mm.movedim(0, -1), moved, atol=1e-3)
    back = apply_affine(np.linalg.inv(result.affine), points) - points
    np.testing.assert_allclose(result.inverse_mm.movedim(0, -1), back, atol=1e-3)
    assert [(s["factor"], s["spacing"]) for s in result.history] == [(2, None), (1, None)]
    assert result.config.transform == kind and result.verdict is not None
    assert next(r for r in result.verdict.reasons if r.check == "convergence").status in ("PASS", "WARN")


@pytest.mark.slow
@pytest.mark.parametrize("kind", AFFINE_KINDS[:-1])
def test_another_start_is_of_its_kind(kind):
    """The first affine stages cannot turn so far, so that the search is what finds it."""
    truth = motion(2)
    truth[:-1, :-1] = np.linalg.matrix_power(truth[:-1, :-1], 5)
    config = RegistrationConfig(stages=(Stage(2, 10, learning_rate=1e-2),), multistart="always")
    result = run(*pair(truth, PLANE), config, transform=kind)
    assert is_of(kind, result.affine)
    points = PLANE.points()
    assert np.linalg.norm(apply_affine(result.affine, points) - apply_affine(truth, points), axis=-1).mean() < 5


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_on_two_devices():
    images = pair(motion(2), PLANE)
    config = RegistrationConfig(stages=(Stage(2, 5),), transform="rigid")
    one, two = run(*images, config), run(*images, config, device=None, devices=["cpu", "cpu"])
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-4)
    assert is_of("rigid", two.affine)


class TestInitial:
    SHORT = RegistrationConfig(stages=(Stage(2, 2),), transform="rigid")

    def test_what_shears_goes_on_shearing_with_a_warning(self, caplog):
        start = np.eye(3)
        start[0, 1] = 0.1
        with caplog.at_level(logging.WARNING):
            found = run(*pair(np.eye(3), PLANE), self.SHORT, initial=start).affine
        assert "changes lengths by factors from 0.951 to 1.051" in caplog.text
        assert is_of("rigid", np.linalg.inv(start) @ found) and not is_of("rigid", found)

    @pytest.mark.parametrize(("kind", "warns"), [("rigid", True), ("similarity", False), ("affine", False)])
    def test_a_scale_is_of_no_rigid_map_only(self, kind, warns, caplog):
        config = dataclasses.replace(self.SHORT, transform=kind)
        with caplog.at_level(logging.WARNING):
            run(*pair(np.eye(3), PLANE), config, initial=np.diag([1.1, 1.1, 1.0]))
        assert ("changes lengths" in caplog.text) == warns

    @pytest.mark.parametrize("dims", [2, 3])
    def test_the_field_of_an_affine_map_is_one(self, dims, caplog):
        grid, start = {2: PLANE, 3: CUBE}[dims], motion(dims)
        points = grid.points()
        field = torch.from_numpy(np.moveaxis(apply_affine(start, points) - points, -1, 0)).float()
        found = run(*pair(start, grid), self.SHORT, initial=field).affine
        assert is_of("rigid", found) and "changes lengths" not in caplog.text

    @pytest.mark.parametrize("name", ["initial", "initial_velocity"])
    @pytest.mark.parametrize("kind", AFFINE_KINDS)
    def test_a_deformation_is_refused(self, kind, name):
        field = torch.sin(torch.arange(48.0) / 5).reshape(1, -1, 1).expand(2, *PLANE.shape)
        with pytest.raises(InputError, match=f'requires transform "deformable", got "{kind}"'):
            run(*pair(np.eye(3), PLANE), RegistrationConfig(transform=kind), **{name: field})

    def test_a_prediction_is_refused(self):
        with pytest.raises(InputError, match='got "rigid"'):
            run(*pair(np.eye(3), PLANE), self.SHORT, predict=lambda *_: torch.zeros(2, *PLANE.shape))


class TestSchedule:
    def factors(self, **settings) -> list[list[float]]:
        return [[s.factor for s in part] for part in RegistrationConfig(**settings).schedule]

    @pytest.mark.parametrize("kind", AFFINE_KINDS)
    def test_finer_stages_go_on_with_the_affine(self, kind):
        first, rest = RegistrationConfig(transform=kind).schedule
        assert [s.factor for s in first] == [8, 4] and [s.factor for s in rest] == [2, 1]
        assert [s.learning_rate for s in rest] == [3.75e-3, 1.875e-3] and all(s.spacing is None for s in rest)

    def test_nothing_changes_with_a_deformation(self):
        config = RegistrationConfig()
        assert sum(config.schedule, ()) == config.stages

    def test_without_affine_stages_all_finer_ones_are(self):
        stages = (Stage(4, 5, spacing=8), Stage(4, 5, spacing=4), Stage(1, 5, spacing=4))
        config = RegistrationConfig(stages=stages, transform="affine", learning_rate_affine=4e-3)
        assert config.schedule == ((), (Stage(4, 5, learning_rate=4e-3), Stage(1, 5, learning_rate=1e-3)))

    def test_no_steps_no_stage(self):
        assert self.factors(stages=(Stage(4, 0), Stage(2, 3), Stage(1, 0, spacing=4)), transform="rigid") == [[2], []]

    def test_an_affine_that_stays_leaves_nothing_to_find(self):
        with pytest.raises(InputError, match="affine false leaves"):
            RegistrationConfig(transform="rigid", affine=False)
        assert self.factors(affine=False)[0] == []

    def test_unknown_kinds_are_refused(self):
        with pytest.raises(InputError, match="transform must be one of rigid, similarity, affine, deformable, got 'elastic'"):
            RegistrationConfig().with_transform("elastic")
