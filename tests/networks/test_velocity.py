# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The velocity field: splines against scipy, the exponential against Runge-Kutta, all of it in millimeters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.networks.blocks import Warp
from scipy.interpolate import BSpline, NdBSpline
from scipy.ndimage import map_coordinates

from monai_locor.geometry import Grid, cubic_bspline
from monai_locor.networks.exponential import LatticeExponential, LatticeWarp, monai_exponential
from monai_locor.networks.velocity import SplineVelocity

OBLIQUE = np.array([[-1.4, 0.3, 0.2], [0.2, 0.2, 2.5], [0.1, -1.9, 0.3]])
OBLIQUE, _ = np.linalg.qr(OBLIQUE)


def grid_of(shape, spacing) -> Grid:
    affine = np.eye(len(shape) + 1)
    affine[:-1, :-1] = (OBLIQUE if len(shape) == 3 else np.array([[0.6, -0.8], [-0.8, -0.6]])) * spacing
    affine[:-1, -1] = [10, -5, 3][: len(shape)]
    return Grid(shape, affine)


CUBE = grid_of((25, 25, 25), (2.0, 2.0, 2.0))
PLANE = grid_of((31, 25), (1.5, 2.0))
THIN = grid_of((49, 25, 9), (1.0, 2.0, 6.0))  # same field of view as CUBE
GRIDS = {"cube": CUBE, "plane": PLANE, "thin": THIN}


SPACINGS = (12.0, 17.0, 30.0)  # of control points, mm, one per axis


def randomized(
    grid: Grid, spacing: float | tuple[float, ...] = 12.0, step: float = 3.0, margin: float = 6.0, size: float = 0.3
) -> SplineVelocity:
    module = SplineVelocity(grid, spacing, step, margin)
    with torch.no_grad():
        module.coefficients.copy_(size * torch.randn_like(module.coefficients))
    return module


def spline(module: SplineVelocity) -> NdBSpline:
    """scipy's splines of the same coefficients, positions and values in lattice voxels."""
    distances = module.spacing / module.step
    knots = tuple(h * (np.arange(n + 4) - 3.0) for h, n in zip(distances, module.coefficients.shape[1:]))
    values = np.moveaxis(module.coefficients.detach().double().numpy(), 0, -1) * distances.min()
    return NdBSpline(knots, values, 3, extrapolate=True)


def lattice_points(module: SplineVelocity) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in module.shape], indexing="ij"), -1)


def at(field: torch.Tensor, points: np.ndarray) -> np.ndarray:
    """A field ``(D, *lattice)`` read at ``(..., D)`` lattice voxels, ``(..., D)``."""
    values = field.detach().double().numpy()
    return np.stack([map_coordinates(v, np.moveaxis(points, -1, 0), order=1, mode="nearest") for v in values], -1)


def at_voxels(module: SplineVelocity, field: torch.Tensor) -> np.ndarray:
    """A field of the lattice at the voxels of the fixed grid, RAS mm, ``(*fixed, D)``."""
    axes = [module.lattice_positions(np.arange(n, dtype=float), axis) for axis, n in enumerate(module.grid.shape)]
    along_axes = at(field, np.stack(np.meshgrid(*axes, indexing="ij"), -1)) * module.step
    return along_axes @ (module.grid.affine[:-1, :-1] / module.grid.spacing).T


class TestBuildingBlocks:
    def test_cubic_bspline_is_scipys(self):
        x = np.linspace(-3, 3, 101)
        expected = np.nan_to_num(BSpline.basis_element(np.arange(-2.0, 3), extrapolate=False)(x))
        np.testing.assert_allclose(cubic_bspline(x), expected, atol=1e-12)

    def test_splines_sum_to_one(self):
        x = np.linspace(0, 1, 50)
        np.testing.assert_allclose(cubic_bspline(x[:, None] - np.arange(-2, 4)).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))
class TestLattice:
    def test_covers_the_field_of_view_and_its_margin_in_equal_steps(self, grid):
        module = SplineVelocity(grid, 12, 3, margin=6)
        for axis, n in enumerate(grid.shape):
            positions = module.lattice_positions(np.arange(n, dtype=float), axis)
            np.testing.assert_allclose(np.diff(positions) * module.step, grid.spacing[axis])
            assert positions[0] * module.step == pytest.approx(6)
            assert (module.shape[axis] - 1 - positions[-1]) * module.step >= 6 - 1e-9
            assert (module.shape[axis] - 2 - positions[-1]) * module.step < 6  # and no farther than needed

    def test_begins_at_zero(self, grid, device):
        module = SplineVelocity(grid, 12, 3, margin=6).to(device)
        assert module.dims == grid.dims
        assert module.velocity().shape == (grid.dims, *module.shape) and not module.velocity().any()
        assert module().shape == (2, grid.dims, *module.shape) and not module().any()

    def test_constant_coefficients_are_a_translation(self, grid):
        module = SplineVelocity(grid, 12, 3, margin=6)
        shift = np.array([0.2, -0.1, 0.3])[: grid.dims]  # in spacings
        with torch.no_grad():
            module.coefficients.copy_(torch.tensor(shift).view(-1, *[1] * grid.dims).expand_as(module.coefficients))
        expected = (grid.affine[:-1, :-1] / grid.spacing) @ (shift * 12)
        fields = module()
        for field, sign in ((module.velocity(), 1), (fields[0], 1), (fields[1], -1)):
            np.testing.assert_allclose(
                at_voxels(module, field), sign * np.broadcast_to(expected, (*grid.shape, grid.dims)), atol=1e-4
            )

    @pytest.mark.parametrize("spacing", [(12.0, 12.0, 12.0), SPACINGS], ids=["equal", "per axis"])
    def test_velocity_is_scipys_spline(self, grid, spacing):
        module = randomized(grid, spacing[: grid.dims])
        np.testing.assert_allclose(module.velocity().detach().movedim(0, -1), spline(module)(lattice_points(module)), atol=1e-5)

    def test_gradients_reach_every_coefficient(self, grid):
        module = randomized(grid, size=0.05)
        (module() * torch.randn(2, grid.dims, *module.shape)).sum().backward()
        assert module.coefficients.grad.isfinite().all() and (module.coefficients.grad != 0).all()


def test_velocity_does_not_depend_on_the_voxels():
    cube, thin = randomized(CUBE), SplineVelocity(THIN, 12, 3, 6)
    assert cube.shape == thin.shape and cube.coefficients.shape == thin.coefficients.shape
    with torch.no_grad():
        thin.coefficients.copy_(cube.coefficients)
    torch.testing.assert_close(thin(), cube())


def test_control_points_along_each_axis():
    module = SplineVelocity(CUBE, SPACINGS, 3, 6)
    assert module.unit == 12 and module.coefficients.shape == (3, 8, 7, 5)  # 60 mm: one before, two or more after
    assert module.shape == SplineVelocity(CUBE, 12, 3, 6).shape  # the lattice is isotropic


class TestExponential:
    @pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))
    def test_against_runge_kutta(self, grid):
        module = randomized(grid, spacing=24, size=0.15)
        function, fields = spline(module), module()
        middle = tuple(slice(n // 4, n - n // 4) for n in module.shape)
        start = lattice_points(module)[middle]
        for sign, field in ((1, fields[0]), (-1, fields[1])):
            x, steps = start, 12
            for _ in range(steps):
                h = sign / steps
                k1 = function(x)
                k2 = function(x + h / 2 * k1)
                k3 = function(x + h / 2 * k2)
                k4 = function(x + h * k3)
                x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            error = np.linalg.norm(at(field, start) - (x - start), axis=-1)
            assert np.linalg.norm(x - start, axis=-1).mean() > 0.5
            assert error.max() < 0.03, error.max()

    @pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))
    def test_forward_and_inverse_undo_each_other(self, grid):
        module = randomized(grid, spacing=24, size=0.15)
        forward, inverse = module()
        middle = tuple(slice(n // 4, n - n // 4) for n in module.shape)
        start = lattice_points(module)[middle]
        for first, second in ((forward, inverse), (inverse, forward)):
            moved = start + at(first, start)
            back = moved + at(second, moved)
            assert np.linalg.norm(back - start, axis=-1).max() < 0.03

    @pytest.mark.parametrize(("spacing", "step", "largest"), [(24.0, 6.0, 1.0), (24.0, 6.0, 4.0), (16.0, 8.0, 2.5)])
    def test_squarings_chosen_by_the_velocity_are_enough(self, spacing, step, largest):
        """As close to eight squarings as six of MONAI's, which begin with a cruder step; the inverse as well."""
        module = SplineVelocity(CUBE, spacing, step, 2 * step, squarings=8)
        with torch.no_grad():
            module.coefficients.copy_(torch.randn_like(module.coefficients))
            smooth = torch.nn.functional.avg_pool3d(module.coefficients, 3, 1, 1)
            module.coefficients.copy_(smooth * (largest / module.velocity().abs().max()))
            module.coefficients.mul_(largest / module.largest())
        many = module.reversed().detach()
        monais = monai_exponential(LatticeWarp(module.shape, reverse=False), 6)(module.starts_of(module.velocity())).detach()
        module.choose_squarings()
        chosen = module.reversed().detach()
        assert module.exponential.squarings < 6
        assert float((chosen - many).norm(dim=1).mean()) < min(0.02, 2 * float((monais - many).norm(dim=1).mean()))
        both = [self.inconsistency(module, fields) for fields in (chosen, monais)]
        assert both[0] < 1.05 * both[1]

    @staticmethod
    def inconsistency(module: SplineVelocity, fields: torch.Tensor) -> float:
        rest = module.exponential.follow(fields[:1], fields[1:]).detach()
        return float(rest[:, :, 2:-2, 2:-2, 2:-2].norm(dim=1).mean())

    def test_squarings_grow_with_the_velocity_up_to_the_setting(self):
        module = SplineVelocity(CUBE, 24, 3, 6, squarings=5)
        found = []
        for growth in (0.0, 4.0, 4.1, 16.0, 1e6, math.nan):
            module.choose_squarings(growth)
            found.append(module.exponential.squarings)
        assert found == [2, 2, 3, 4, 5, 5]

    def test_the_gradient_of_the_exponential_is_that_of_differences(self):
        module = LatticeExponential((5, 4, 6), 2).double()
        velocity = (0.7 * torch.randn(2, 3, 5, 4, 6, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(module, (velocity,), eps=1e-7, atol=1e-4)


class TestTake:
    @pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))
    @pytest.mark.parametrize("margins", [(0.0, 0.0), (12.0, 12.0), (24.0, 12.0)])
    def test_refinement_keeps_the_field(self, grid, margins):
        coarse, fine = randomized(grid, 24, 3, margins[0]), SplineVelocity(grid, 12, 3, margins[1])
        fine.take(coarse)
        expected = at_voxels(coarse, coarse.velocity())
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(at_voxels(fine, fine.velocity()), expected, atol=1e-3)

    def test_refinement_of_the_lattice_too(self):
        """As from stage to stage: control points, steps and margins all change."""
        coarse, fine = randomized(CUBE, 32, 8, 16), SplineVelocity(CUBE, 8, 4, 8)
        fine.take(coarse)
        at_both = [np.linspace(0, n - 1, 7)[::2] for n in CUBE.shape]  # where lattice points of both lie: every 16 mm
        points = np.stack(np.meshgrid(*at_both, indexing="ij"), -1) * CUBE.spacing
        values = [at(m.velocity(), (points + m.margin) / m.step) * m.step for m in (coarse, fine)]
        np.testing.assert_allclose(*values, atol=1e-3)

    def test_coarsening_finds_the_coarse_field_again(self):
        coarse, fine, again = randomized(CUBE, 24, 3, 12), SplineVelocity(CUBE, 12, 3, 12), SplineVelocity(CUBE, 24, 3, 12)
        fine.take(coarse)
        again.take(fine)
        torch.testing.assert_close(again.coefficients, coarse.coefficients, atol=1e-4, rtol=0)

    def test_refinement_along_each_axis_keeps_the_field(self):
        coarse, fine = randomized(CUBE, (48.0, 24.0, 36.0), 3, 12), SplineVelocity(CUBE, (24.0, 12.0, 36.0), 3, 12)
        fine.take(coarse)
        torch.testing.assert_close(fine.velocity(), coarse.velocity(), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("spacing", [10.0, 17.0, 40.0])
    def test_knots_that_do_not_nest_come_close(self, spacing):
        other, mine = randomized(CUBE, 24, 3, 12), SplineVelocity(CUBE, spacing, 3, 12)
        mine.take(other)
        before, after = (at_voxels(m, m.velocity()) for m in (other, mine))
        share = np.square(after - before).mean() / np.square(before).mean()
        assert share < {10.0: 1e-3, 17.0: 0.1, 40.0: 1.0}[spacing]


class TestBase:
    @pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))
    def test_is_the_velocity_given(self, grid):
        module = SplineVelocity(grid, 12, float(grid.spacing.min()), margin=2 * float(grid.spacing.min()))
        matrix = 0.1 * np.random.default_rng(0).standard_normal((grid.dims, grid.dims))
        given = (grid.points() - grid.center) @ matrix.T + 1  # linear, so that no interpolation changes it
        module.set_base(torch.from_numpy(np.moveaxis(given, -1, 0).copy()))
        np.testing.assert_allclose(at_voxels(module, module.velocity()), given, atol=1e-4)

    def test_adds_to_the_splines(self):
        module = randomized(CUBE)
        splines = module.velocity().detach()
        module.set_base(torch.ones(3, *CUBE.shape))
        expected = splines + (torch.from_numpy(OBLIQUE.T @ np.ones(3)).float() / 3).view(3, 1, 1, 1)
        torch.testing.assert_close(module.velocity().detach(), expected, atol=1e-5, rtol=0)

    def test_does_not_enter_checkpoints(self):
        module = randomized(CUBE)
        module.set_base(torch.ones(3, *CUBE.shape))
        assert set(module.state_dict()) == {"coefficients"}

    def test_fitted_base_has_the_given_displacement_as_its_exponential(self):
        module = SplineVelocity(CUBE, 12, 2.0, margin=4.0)
        truth = randomized(CUBE, 24, 2.0, 4.0, size=0.15)
        given = at_voxels(truth, truth()[0])
        left = module.fit_base(torch.from_numpy(np.moveaxis(given, -1, 0).copy()))
        error = np.linalg.norm(at_voxels(module, module()[0]) - given, axis=-1)
        assert np.linalg.norm(given, axis=-1).mean() > 1
        assert left < 0.05 and np.quantile(error, 0.95) < 0.1, (left, np.quantile(error, 0.95))


def test_even_the_smallest_image_has_a_lattice():
    module = SplineVelocity(Grid((2, 1, 3), np.eye(4)), 32, 8)
    assert min(module.shape) >= 3 and math.prod(module().shape) > 0


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7), (4, 1, 5)])
@pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp")
def test_lattice_warp_is_monais(shape, device):
    image, ddf = torch.rand(2, 3, *shape, device=device), 3 * torch.randn(2, len(shape), *shape, device=device)
    monais, ours = Warp("bilinear", "border"), LatticeWarp(shape).to(device)
    torch.testing.assert_close(ours(image, ddf), monais(image, ddf), atol=1e-5, rtol=0)
    gradient, leaves = torch.rand_like(image), (image.requires_grad_(), ddf.requires_grad_())
    expected = torch.autograd.grad(monais(*leaves), leaves, gradient)
    for found, wanted in zip(torch.autograd.grad(ours(*leaves), leaves, gradient), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
        assert float(wanted.abs().max()) > 0.1


def test_repeated_squarings_have_the_same_gradient():
    module = LatticeExponential((9, 8, 7), 3)
    velocity = torch.randn(2, 3, 9, 8, 7, requires_grad=True)
    results = []
    for module.repeat in (False, True):
        field = module(velocity)
        results.append([field, *torch.autograd.grad(field.square().sum(), velocity)])
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))
