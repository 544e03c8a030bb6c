# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One velocity for every stage: composed point by point, undone by its inverse, differentiated, continued on other lattices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.networks.composition import COMPOSITIONS, StagedVelocity
from monai_locor.networks.velocity import SplineVelocity

from .test_velocity import CUBE, GRIDS, at, at_voxels, lattice_points

BY_GRID = pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))


def randomized(module: SplineVelocity, size: float = 0.1) -> SplineVelocity:
    with torch.no_grad():
        module.coefficients.copy_(size * torch.randn_like(module.coefficients))
    return module


def stages(grid, spacings=(24.0, 18.0, 12.0), step: float = 3.0, dtype=torch.float32) -> list[StagedVelocity]:
    """The velocities of three stages on one lattice, each continued from the previous one."""
    made: list[StagedVelocity] = []
    for spacing in spacings:
        module = StagedVelocity(grid, spacing, step, 6.0).to(dtype)
        if made:
            module.take(made[-1])
        made.append(randomized(module))
    return made


def updates(modules: list[StagedVelocity]) -> list[torch.Tensor]:
    """``exp(v)`` and ``exp(-v)`` of the stages alone, by the single velocity."""
    out = []
    for module in modules:
        alone = SplineVelocity(module.grid, module.spacing, module.step, module.margin)
        with torch.no_grad():
            alone.coefficients.copy_(module.coefficients)
        out.append(alone().detach())
    return out


def middle_of(module: SplineVelocity) -> np.ndarray:
    return lattice_points(module)[tuple(slice(n // 4, n - n // 4) for n in module.shape)]


@BY_GRID
def test_the_first_stage_enters_twice(grid):
    """The same as one velocity of twice the size that is squared once more."""
    (module,) = stages(grid, (12.0,))
    twice = SplineVelocity(grid, 12.0, 3.0, 6.0, squarings=7)
    with torch.no_grad():
        twice.coefficients.copy_(2 * module.coefficients)
    torch.testing.assert_close(module(), twice(), atol=1e-5, rtol=0)
    assert float(module().detach().abs().max()) > 0.5


@BY_GRID
@pytest.mark.parametrize("direction", [0, 1])
def test_later_stages_are_inserted_in_the_middle(grid, direction):
    """Points that go through u_1, u_2, u_3, u_3, u_2, u_1 one after the other; backward through the inverses."""
    modules = stages(grid)
    first, second, third = (u[direction] for u in updates(modules))
    start = middle_of(modules[-1])
    point = start
    for field in (first, second, third, third, second, first):
        point = point + at(field, point)
    moved = at(modules[-1]()[direction], start) + start
    assert np.linalg.norm(point - start, axis=-1).mean() > 0.5
    assert np.linalg.norm(moved - point, axis=-1).max() < 0.05


@BY_GRID
def test_forward_and_inverse_undo_each_other(grid):
    module = stages(grid)[-1]
    forward, inverse = module()
    start = middle_of(module)
    for one, other in ((forward, inverse), (inverse, forward)):
        moved = start + at(one, start)
        assert np.linalg.norm(moved + at(other, moved) - start, axis=-1).max() < 0.08


def test_one_direction_is_that_of_both():
    module = stages(CUBE)[-1]
    both = module()
    for k in (0, 1):
        assert torch.equal(module((k,))[0], both[k])


@pytest.mark.parametrize(("step", "margin"), [(3.0, 6.0), (4.0, 8.0), (1.5, 3.0)])
def test_a_new_stage_keeps_the_map_on_whatever_lattice(step, margin):
    module = stages(CUBE, (32.0, 24.0), step=4.0)[-1]
    new = StagedVelocity(CUBE, 6.0, step, margin)
    new.take(module)
    for k in (0, 1):
        before, after = at_voxels(module, module()[k]), at_voxels(new, new()[k])
        inside = (slice(4, -4),) * 3
        assert np.linalg.norm(before[inside], axis=-1).mean() > 1  # mm
        assert np.linalg.norm(before - after, axis=-1)[inside].max() < 0.05 * module.step


def test_beyond_its_lattice_a_velocity_stays_as_it_is():
    old = StagedVelocity(CUBE, 24.0, 4.0, 4.0)
    with torch.no_grad():
        old.coefficients.fill_(0.1)
    new = StagedVelocity(CUBE, 12.0, 3.0, 30.0)
    new.take(old)
    torch.testing.assert_close(new(), old()[:, :, :1, :1, :1].expand_as(new()) * (4 / 3), atol=1e-4, rtol=0)


def test_what_earlier_stages_found_does_not_change_any_more():
    first, second = stages(CUBE, (24.0, 12.0))
    before = second().detach()
    with torch.no_grad():
        first.coefficients.mul_(2)
    torch.testing.assert_close(second(), before)
    second().sum().backward()
    assert first.coefficients.grad is None and (second.coefficients.grad != 0).any()
    assert [name for name, _ in second.named_parameters()] == ["coefficients"]


def test_the_gradient_is_that_of_differences():
    module = stages(CUBE, (32.0, 24.0), 12.0, torch.float64)[-1]
    weights = torch.randn(2, 3, *module.shape, dtype=torch.float64)

    def value(coefficients: torch.Tensor) -> torch.Tensor:
        return (torch.func.functional_call(module, {"coefficients": coefficients}) * weights).sum()

    where = module.coefficients.detach().clone()
    (gradient,) = torch.autograd.grad(value(module.coefficients), module.coefficients)
    for _ in range(3):
        way, small = torch.randn_like(where), 1e-7
        difference = (value(where + small * way) - value(where - small * way)) / (2 * small)
        assert float(difference) == pytest.approx(float((gradient * way).sum()), rel=1e-4)


class TestBase:
    def test_the_map_is_its_exponential(self):
        given = torch.from_numpy(np.moveaxis(at_voxels(*self.smooth()), -1, 0).copy())
        single, staged = SplineVelocity(CUBE, 12.0, 3.0, 6.0), StagedVelocity(CUBE, 12.0, 3.0, 6.0)
        for module in (single, staged):
            module.set_base(given)
        assert float(single().detach().abs().max()) > 0.5
        torch.testing.assert_close(staged(), single(), atol=0.02, rtol=0)

    def test_a_stage_goes_between_its_halves(self):
        module = StagedVelocity(CUBE, 12.0, 3.0, 6.0)
        module.set_base(torch.ones(3, *CUBE.shape))
        before = module().detach()
        randomized(module)
        assert float((module().detach() - before).abs().max()) > 0.3

    def test_another_base_takes_its_place(self):
        module = StagedVelocity(CUBE, 12.0, 3.0, 6.0)
        module.set_base(torch.ones(3, *CUBE.shape))
        one = module()
        module.set_base(2 * torch.ones(3, *CUBE.shape))
        torch.testing.assert_close(module(), 2 * one, atol=1e-4, rtol=0)

    def test_a_displacement_is_met(self):
        module = StagedVelocity(CUBE, 12.0, 2.0, 4.0)
        truth, _ = self.smooth()
        given = at_voxels(truth, truth()[0])
        left = module.fit_base(torch.from_numpy(np.moveaxis(given, -1, 0).copy()))
        error = np.linalg.norm(at_voxels(module, module()[0]) - given, axis=-1)
        assert left < 0.05 and np.quantile(error, 0.95) < 0.1

    @staticmethod
    def smooth() -> tuple[SplineVelocity, torch.Tensor]:
        module = randomized(SplineVelocity(CUBE, 24.0, 2.0, 4.0), 0.12)
        return module, module.velocity()


def test_it_does_not_go_on_from_a_single_velocity():
    with pytest.raises(TypeError, match="SplineVelocity"):
        StagedVelocity(CUBE, 12.0, 3.0).take(SplineVelocity(CUBE, 12.0, 3.0))


def test_names():
    assert dict(COMPOSITIONS) == {"single": SplineVelocity, "stages": StagedVelocity}
