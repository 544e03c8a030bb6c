# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Coordinates: each composed map against the same walk through world space in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from monai_locor.geometry import Grid, apply_affine, sample_normalized, separable
from monai_locor.metrics import inverse_consistency
from monai_locor.networks.velocity import SplineVelocity
from monai_locor.registration.coordinates import ForwardCoordinates, InverseCoordinates

from ..phantoms import grid_of


def turned(seed: int, shape: tuple[int, ...], spacing: tuple[float, ...], center: tuple[float, ...]) -> Grid:
    """A grid turned at random; negative spacing flips an axis."""
    dims = len(shape)
    skew = 0.25 * np.random.default_rng(seed).standard_normal((dims, dims))
    rotation = torch.linalg.matrix_exp(torch.from_numpy(skew - skew.T)).numpy()
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = rotation * spacing
    affine[:-1, -1] = np.array(center) - affine[:-1, :-1] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


FIXED = {
    "aniso": turned(0, (24, 20, 9), (1.0, 1.2, 3.0), (5, -7, 30)),
    "flipped": turned(1, (15, 16, 13), (-2.0, 1.5, -2.0), (5, -7, 30)),
    "plane": turned(2, (26, 22), (1.0, -1.3), (4, 9)),
}
MOVING = {
    "aniso": turned(3, (17, 21, 19), (-1.7, 1.4, 1.5), (6, -6, 31)),
    "flipped": turned(4, (30, 12, 20), (1.0, -3.0, 1.5), (4, -8, 29)),
    "plane": turned(5, (20, 28), (1.5, 1.1), (4, 8)),
}
CASES = pytest.mark.parametrize("case", list(FIXED))


def affine_near_identity(grid: Grid) -> np.ndarray:
    matrix = np.eye(grid.dims + 1)
    linear = 0.05 * np.random.default_rng(7).standard_normal((grid.dims, grid.dims))
    matrix[:-1, :-1] += linear
    matrix[:-1, -1] = 1.0 - linear @ grid.center
    return matrix


def velocity_of(fixed: Grid, size: float = 0.0, spacing: float = 12.0, step: float = 2.0, margin: float = 8.0):
    module = SplineVelocity(fixed, spacing, step, margin)
    with torch.no_grad():
        module.coefficients.copy_(size * torch.randn_like(module.coefficients))
    return module


def at_samples(coordinates: ForwardCoordinates | InverseCoordinates, matrix, field=None) -> torch.Tensor:
    """Positions of the samples, ``(1, N, D)``."""
    matrix = torch.as_tensor(matrix)
    reverse = None if field is None else field.flip(0)
    return separable(coordinates.upsample, coordinates(matrix, reverse)).flatten(1).T[None]


def look_up(field: torch.Tensor, velocity: SplineVelocity, world: np.ndarray) -> np.ndarray:
    """A displacement of the lattice at world points ``(..., D)``: RAS mm."""
    grid = velocity.grid
    axes = grid.affine[:-1, :-1] / grid.spacing
    along = (world - grid.affine[:-1, -1]) @ axes  # mm along each axis from the first voxel, axes at right angles
    lattice = np.moveaxis((along + velocity.margin) / velocity.step, -1, 0)
    values = [map_coordinates(f, lattice, order=1, mode="nearest") for f in field.detach().double().numpy()]
    return (np.stack(values, -1) * velocity.step) @ axes.T


def normalized(world: np.ndarray, grid: Grid) -> np.ndarray:
    """World points in [-1, 1] of an image, last axis first, ``(N, D)``."""
    voxels = apply_affine(np.linalg.inv(grid.affine), world).reshape(-1, grid.dims)
    return (2 * voxels / (np.array(grid.shape) - 1) - 1)[:, ::-1]


def linear_field(velocity: SplineVelocity) -> torch.Tensor:
    """A displacement that is linear in the position, which no interpolation changes."""
    axes = [torch.arange(n, dtype=torch.float32) - n / 2 for n in velocity.shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.tensordot(0.05 * torch.randn(velocity.dims, velocity.dims), index, dims=1) + 0.5


@CASES
@pytest.mark.parametrize("coarse", [1.0, 2.3])
class TestForward:
    @pytest.mark.parametrize("lattice", [None, True], ids=["affine", "lattice"])
    def test_without_deformation(self, case, coarse, lattice):
        fixed, moving, matrix = FIXED[case], MOVING[case], affine_near_identity(FIXED[case])
        level = fixed.resampled(fixed.spacing * coarse)
        points = at_samples(ForwardCoordinates(level, fixed, moving, lattice and velocity_of(fixed)), matrix)
        assert points.shape == (1, np.prod(level.shape), fixed.dims)
        np.testing.assert_allclose(points[0], normalized(apply_affine(matrix, level.points()), moving), atol=1e-5)

    def test_with_deformation(self, case, coarse):
        fixed, moving, matrix = FIXED[case], MOVING[case], affine_near_identity(FIXED[case])
        velocity = velocity_of(fixed)
        field = torch.randn(fixed.dims, *velocity.shape)
        level = fixed.resampled(fixed.spacing * coarse)
        points = at_samples(ForwardCoordinates(level, fixed, moving, velocity), matrix, field)
        x = level.points()
        expected = apply_affine(matrix, x + look_up(field, velocity, x))
        np.testing.assert_allclose(points[0], normalized(expected, moving), atol=2e-5)


@CASES
@pytest.mark.parametrize("coarse", [1.0, 2.3])
class TestInverse:
    @pytest.mark.parametrize("lattice", [None, True], ids=["affine", "lattice"])
    def test_without_deformation(self, case, coarse, lattice):
        fixed, moving, matrix = FIXED[case], MOVING[case], np.linalg.inv(affine_near_identity(FIXED[case]))
        level = moving.resampled(moving.spacing * coarse)
        points = at_samples(InverseCoordinates(level, fixed, lattice and velocity_of(fixed)), matrix)
        np.testing.assert_allclose(points[0], normalized(apply_affine(matrix, level.points()), fixed), atol=1e-5)

    def test_with_a_linear_deformation(self, case, coarse):
        fixed, moving, matrix = FIXED[case], MOVING[case], np.linalg.inv(affine_near_identity(FIXED[case]))
        velocity = velocity_of(fixed, margin=40.0)  # all of the moving image lies on the lattice
        field = linear_field(velocity)
        level = moving.resampled(moving.spacing * coarse)
        points = at_samples(InverseCoordinates(level, fixed, velocity), matrix, field)
        p = apply_affine(matrix, level.points())
        np.testing.assert_allclose(points[0], normalized(p + look_up(field, velocity, p), fixed), atol=1e-4)

    def test_with_a_smooth_deformation(self, case, coarse):
        fixed, moving, matrix = FIXED[case], MOVING[case], np.linalg.inv(affine_near_identity(FIXED[case]))
        velocity = velocity_of(fixed, size=0.3, margin=40.0)
        field = velocity()[1].detach()
        level = moving.resampled(moving.spacing * coarse)
        points = at_samples(InverseCoordinates(level, fixed, velocity), matrix, field)
        p = apply_affine(matrix, level.points())
        move = look_up(field, velocity, p)
        error = (points[0].numpy() - normalized(p + move, fixed))[:, ::-1] / 2 * (np.array(fixed.shape) - 1)  # voxels
        assert np.linalg.norm(move, axis=-1).mean() > 1
        assert np.quantile(np.linalg.norm(error, axis=-1), 0.95) < 0.2  # looked up about as far apart as the lattice


@CASES
def test_inverse_undoes_forward(case):
    fixed, moving, matrix = FIXED[case], MOVING[case], affine_near_identity(FIXED[case])
    velocity = velocity_of(fixed, size=0.15, spacing=24.0, margin=12.0)
    fields = velocity().detach()
    forward = at_samples(ForwardCoordinates(fixed, fixed, moving, velocity), matrix, fields[0])
    inverse = at_samples(InverseCoordinates(moving, fixed, velocity), np.linalg.inv(matrix), fields[1])
    displacements = []
    for points, source, target in ((forward, fixed, moving), (inverse, moving, fixed)):
        voxels = (points[0].double().numpy()[:, ::-1] + 1) / 2 * (np.array(target.shape) - 1)
        moved = apply_affine(target.affine, voxels).reshape(*source.shape, source.dims)
        displacements.append(torch.from_numpy(np.moveaxis(moved - source.points(), -1, 0).copy()))
    assert float(displacements[0].norm(dim=0).mean()) > 1
    error = inverse_consistency(displacements[0], fixed, displacements[1], moving)
    assert error.numel() > 100 and float(error.quantile(0.95)) < 0.1 * fixed.spacing.min()


@CASES
def test_displacement_in_mm_is_that_of_the_positions(case):
    fixed, moving, matrix = FIXED[case], MOVING[case], affine_near_identity(FIXED[case])
    velocity = velocity_of(fixed, size=0.3, margin=12.0)
    fields = velocity().detach()
    for coordinates, source, target, world, field in (
        (ForwardCoordinates(fixed, fixed, moving, velocity), fixed, moving, matrix, fields[0]),
        (InverseCoordinates(moving, fixed, velocity), moving, fixed, np.linalg.inv(matrix), fields[1]),
    ):
        for displacement in (field, None):
            reverse = None if displacement is None else displacement.flip(0)
            found = coordinates.displacement_mm(torch.as_tensor(world), reverse)
            assert found.shape == (source.dims, *source.shape) and found.dtype == torch.float32
            moved = source.points() + np.moveaxis(found.double().numpy(), 0, -1)
            expected = at_samples(coordinates, world, displacement)[0]
            np.testing.assert_allclose(normalized(moved, target), expected, atol=1e-4 / min(target.shape) * 20)


@CASES
def test_gradients_reach_the_matrix_and_the_field(case):
    fixed, moving = FIXED[case], MOVING[case]
    velocity = velocity_of(fixed)
    matrix = torch.eye(fixed.dims + 1, dtype=torch.float64, requires_grad=True)
    field = torch.zeros(fixed.dims, *velocity.shape, requires_grad=True)
    for coordinates in (ForwardCoordinates(fixed, fixed, moving, velocity), InverseCoordinates(moving, fixed, velocity)):
        gradients = torch.autograd.grad(coordinates(matrix, field).square().sum(), (matrix, field))
        assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


def test_a_moving_image_of_one_slice():
    fixed, moving = Grid((8, 9, 7), np.eye(4)), Grid((8, 9, 1), np.diag([1.0, 1, 4, 1]))
    points = at_samples(ForwardCoordinates(fixed, fixed, moving, velocity_of(fixed)), np.eye(4))
    inside = (points.abs() <= 1).all(-1).reshape(fixed.shape)
    assert inside[:, :, :3].all() and not inside[:, :, 3:].any()  # half a voxel of 4 mm to either side
    image = torch.rand(1, 1, *moving.shape)
    torch.testing.assert_close(sample_normalized(image, points).reshape(fixed.shape)[:, :, 0], image[0, 0, :, :, 0])
    back = at_samples(InverseCoordinates(moving, fixed, velocity_of(fixed)), np.eye(4))
    np.testing.assert_allclose(back[0], normalized(moving.points(), fixed), atol=1e-6)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 100.0), (1e3, 1e3, 1e3)])
def test_there_are_no_more_nodes_than_samples(spacing):
    """However large the samples are; where they are larger than the steps of the lattice, each sample is a node."""
    fixed, level = grid_of((12, 12, 12), (2.0,) * 3), grid_of((9, 8, 5), spacing)
    coordinates = InverseCoordinates(level, fixed, velocity_of(fixed, step=8.0))
    assert all(node <= size for node, size in zip(coordinates.nodes, level.shape))
    for axis, matrix in enumerate(coordinates.upsample):
        if spacing[axis] > 8:
            assert torch.equal(matrix, torch.eye(level.shape[axis]))
