# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Spatial transforms: chains of maps, their inverses, and images and points that go through them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.networks.blocks import Warp
from scipy import ndimage

from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform, SplineStep, apply_affine
from monai_locor.geometry.inversion import fitted_affine

from ..phantoms import turned

FIXED = {2: turned(0.4, (1.0, -1.5), (22, 20)), 3: turned(0.3, (1.0, -1.5, 2.0), (18, 16, 14))}


def some_affine(dims: int) -> np.ndarray:
    matrix = np.eye(dims + 1)
    matrix[:dims] += np.random.default_rng(dims).normal(size=(dims, dims + 1)) * 0.1
    matrix[:dims, -1] *= 30
    return matrix


def smooth_field(grid: Grid, size: float = 2.0) -> torch.Tensor:
    world = grid.points() - grid.center
    waves = [np.sin(world @ np.roll([0.25, 0.1, 0.18][: grid.dims], k) + 2 * k) for k in range(grid.dims)]
    return torch.from_numpy(size * np.stack(waves)).float()


def inner_points(grid: Grid, count: int = 30) -> np.ndarray:
    index = np.random.default_rng(0).uniform(1.2, np.array(grid.shape) - 2.2, (count, grid.dims))
    return apply_affine(grid.affine, index)


def some_transform(dims: int) -> SpatialTransform:
    fixed = FIXED[dims]
    return SpatialTransform((FieldStep(smooth_field(fixed), fixed), AffineStep(some_affine(dims))))


def some_spline(dims: int, size: float = 2.0) -> SplineStep:
    affine = FIXED[dims].affine @ np.diag([4.0] * dims + [1.0])
    affine[:-1, -1] = FIXED[dims].affine[:-1, -1] - affine[:-1, :-1].sum(1)
    lattice = Grid(tuple(-(-n // 4) + 3 for n in FIXED[dims].shape), affine)
    return SplineStep(smooth_field(lattice, size), lattice)


def interpolated(field: FieldStep, points: np.ndarray) -> np.ndarray:
    """A field at points, as ITK has it, by scipy."""
    voxels = apply_affine(np.linalg.inv(field.grid.affine), points).T
    limits = np.array(field.grid.shape)[:, None]
    inside = ((voxels >= -0.5) & (voxels <= limits - 0.5)).all(0)
    near = np.clip(voxels, 0, limits - 1)
    values = [ndimage.map_coordinates(component.double().numpy(), near, order=1) for component in field.displacement]
    return np.stack(values, -1) * inside[:, None]


@pytest.mark.parametrize("dims", [2, 3])
def test_points_go_through_the_steps_in_order(dims):
    transform = some_transform(dims)
    field = transform.steps[0]
    points = apply_affine(FIXED[dims].affine, np.random.default_rng(1).uniform(-3, 24, (200, dims)))
    expected = apply_affine(some_affine(dims), points + interpolated(field, points))
    np.testing.assert_allclose(transform.points(points), expected, atol=1e-4)
    assert torch.equal(transform.points(torch.from_numpy(points)), torch.from_numpy(transform.points(points)))
    assert 0.1 < (interpolated(field, points) != 0).any(1).mean() < 0.9


@pytest.mark.parametrize("dims", [2, 3])
def test_splines_are_sums_of_basis_functions(dims):
    spline = some_spline(dims)
    points = inner_points(FIXED[dims], 20)
    nodes = apply_affine(np.linalg.inv(spline.grid.affine), points)
    expected = np.zeros_like(points)
    for index in itertools.product(*map(range, spline.grid.shape)):
        t = np.abs(nodes - index)
        weight = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0)).prod(1)
        expected += weight[:, None] * spline.coefficients[(slice(None), *index)].numpy()
    transform = SpatialTransform((spline,))
    np.testing.assert_allclose(transform.points(points), points + expected, atol=1e-10)
    far = apply_affine(spline.grid.affine, np.full((1, dims), 0.9))  # a basis function is missing there
    np.testing.assert_array_equal(transform.points(far), far)


@pytest.mark.parametrize("dims", [2, 3])
def test_displacement_on_any_grid(dims):
    transform = some_transform(dims).then(SpatialTransform((some_spline(dims, 0.5),)))
    other = turned(0.1, (1.3, 0.9, 1.7)[:dims], (9, 8, 7)[:dims])
    for grid in (FIXED[dims], other):
        shift = transform.displacement(grid)
        assert shift.shape == (dims, *grid.shape) and shift.dtype == torch.float32
        expected = transform.points(grid.points().reshape(-1, dims)) - grid.points().reshape(-1, dims)
        np.testing.assert_allclose(np.moveaxis(shift.numpy(), 0, -1).reshape(-1, dims), expected, atol=1e-4)
    field = transform.steps[0]
    assert SpatialTransform((field,)).displacement(field.grid) is field.displacement


@pytest.mark.parametrize("dims", [2, 3])
def test_composition_and_inverses(dims):
    first, second = some_transform(dims), SpatialTransform.of_affine(some_affine(dims))
    points = inner_points(FIXED[dims])
    both = first.then(second)
    np.testing.assert_allclose(both.points(points), second.points(first.points(points)))
    assert second.is_affine and not both.is_affine and both.inverse_steps is None
    np.testing.assert_allclose(second.inverse().matrix, np.linalg.inv(some_affine(dims)), atol=1e-12)
    np.testing.assert_allclose(second.then(second).matrix, some_affine(dims) @ some_affine(dims))
    with_inverse = SpatialTransform(first.steps, first.inverse().steps).then(second)
    assert with_inverse.inverse().steps == with_inverse.inverse_steps
    np.testing.assert_allclose(with_inverse.inverse().points(both.points(points)), points, atol=0.25)
    assert with_inverse.inverse().inverse().steps == with_inverse.steps


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("kind", "given"), [("chain", False), ("whole", True), ("spline", False)])
def test_numerical_inverse(dims, kind, given):
    """There and back within a tenth of a voxel, mostly, and at the nodes of the inverse almost exactly."""
    fixed = FIXED[dims]
    transform = some_transform(dims)
    if kind == "whole":
        transform = SpatialTransform.of_field(transform.displacement(fixed), fixed)
    elif kind == "spline":
        transform = SpatialTransform((AffineStep(some_affine(dims)), some_spline(dims)))
    points = inner_points(fixed)
    if kind == "spline":
        points = SpatialTransform.of_affine(np.linalg.inv(some_affine(dims))).points(points)
    moving = turned(-0.3, (1.5,) * dims, (28,) * dims) if given else None
    inverse = transform.inverse(moving)
    away = np.linalg.norm(inverse.points(transform.points(points)) - points, axis=1)
    assert np.quantile(away, 0.95) < 0.1 * fixed.spacing.max()
    grid = next(step.grid for step in inverse.steps if isinstance(step, FieldStep))
    if kind == "whole":
        nodes = grid.points().reshape(-1, dims)
        start = inverse.points(nodes)
        seen = (np.abs(apply_affine(np.linalg.inv(fixed.affine), start) / (np.array(fixed.shape) - 1) - 0.5) < 0.5).all(1)
        assert seen.mean() > 0.1
        np.testing.assert_allclose(transform.points(start[seen]), nodes[seen], atol=2e-3)
        assert given == (grid is moving)


def test_strong_expansion_is_inverted():
    """Where points are pulled apart to more than twice their distance the plain iteration diverges."""
    grid = Grid((60, 60), np.eye(3))
    x = grid.points()[..., 0]
    field = np.stack([4 * np.tanh((x - 29.5) / 1.5), 0 * x])
    transform = SpatialTransform.of_field(torch.from_numpy(field), grid)
    points = np.stack([np.linspace(20, 39, 50), np.full(50, 30.0)], 1)
    inverse = transform.inverse()
    np.testing.assert_allclose(inverse.points(transform.points(points)), points, atol=0.15)
    nodes = inverse.steps[0].grid.points().reshape(-1, 2)
    np.testing.assert_allclose(transform.points(inverse.points(nodes)), nodes, atol=2e-3)


def test_an_inverse_without_bounds_is_refused():
    grid = Grid((8, 8), np.eye(3))
    field = torch.zeros(2, 8, 8)
    field[0, 0, 0] = 1e6
    with pytest.raises(ValueError, match="give a grid"):
        SpatialTransform.of_field(field, grid).inverse()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("matrix", [True, False])
def test_splitting_changes_nothing_at_the_voxels(dims, matrix):
    fixed = FIXED[dims]
    transform = some_transform(dims)
    whole = SpatialTransform.of_field(transform.displacement(fixed), fixed)
    parts = whole.split(fixed, some_affine(dims) if matrix else None)
    assert [type(step) for step in parts.steps] == [FieldStep, AffineStep]
    torch.testing.assert_close(parts.displacement(fixed), whole.displacement(fixed), atol=1e-4, rtol=0)
    if matrix:
        torch.testing.assert_close(parts.steps[0].displacement, transform.steps[0].displacement, atol=1e-4, rtol=0)
        np.testing.assert_array_equal(transform.split(fixed).steps[1].matrix, some_affine(dims))
    else:
        assert parts.steps[0].displacement.pow(2).mean() < whole.displacement(fixed).pow(2).mean()


def test_the_fitted_affine_map():
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 3)) * [30, 20, 10])
    mapped = torch.from_numpy(apply_affine(some_affine(3), points.numpy()))
    np.testing.assert_allclose(fitted_affine(points, mapped), some_affine(3), atol=1e-10)
    points[:, 2] = 4  # one slice: nothing is known of what lies beside it
    flat = fitted_affine(points, points + torch.tensor([1.0, 2, 3]))
    np.testing.assert_allclose(flat[:3, :3], np.eye(3), atol=1e-10)
    np.testing.assert_allclose(flat[:3, 3], [1, 2, 3], atol=1e-10)
    points[:, 2] = points[:, 0]
    seen = points * torch.tensor([-1.0, 1, 1])
    np.testing.assert_allclose(fitted_affine(points, seen)[:3, :3], np.eye(3))  # a reflection is no start


@pytest.mark.parametrize("dims", [2, 3])
def test_ddfs_of_monai(dims):
    """MONAI's Warp and ours see the same image, whatever the axes."""
    fixed = FIXED[dims]
    ddf = torch.from_numpy(np.stack([np.cos(fixed.points()[..., k] / 5) for k in range(dims)])).float()
    transform = SpatialTransform.of_ddf(ddf, fixed)
    image = torch.from_numpy(np.cos(fixed.points()).prod(-1)).float()[None]
    theirs = Warp(padding_mode="zeros")(image[None], ddf[None])[0]
    inner = (0, *(slice(3, -3),) * dims)
    torch.testing.assert_close(transform.warp(image, fixed, fixed).as_tensor()[inner], theirs[inner], atol=1e-3, rtol=0)
    torch.testing.assert_close(transform.ddf(fixed), ddf, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_ddfs_between_different_grids(dims):
    fixed, moving = FIXED[dims], turned(-0.2, (0.8, 1.1, 1.3)[:dims], (30, 28, 24)[:dims])
    transform = some_transform(dims)
    ddf = transform.ddf(fixed, moving)
    index = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij"), -1)
    end = apply_affine(moving.affine, index + np.moveaxis(ddf.numpy(), 0, -1)).reshape(-1, dims)
    np.testing.assert_allclose(end, transform.points(fixed.points().reshape(-1, dims)), atol=1e-3)
    back = SpatialTransform.of_ddf(ddf, fixed, moving)
    torch.testing.assert_close(back.displacement(fixed), transform.displacement(fixed), atol=1e-3, rtol=0)


def test_warping_images_and_labels():
    grid = Grid((10, 12), np.diag([2.0, 1.0, 1.0]))
    move = np.eye(3)
    move[0, 2] = 4.0  # two voxels
    transform = SpatialTransform.of_affine(move)
    image = torch.arange(120.0).reshape(1, 10, 12) - 1000
    out = transform.warp(image, grid, grid)
    assert torch.equal(out.as_tensor()[0, :8], image[0, 2:]) and bool((out[0, 8:] == -1000).all())
    assert out.affine[0, 0] == 2 and out.affine.shape == (4, 4)
    labels = torch.randint(0, 5, (1, 10, 12), dtype=torch.int16)
    moved = transform.warp(labels, grid, grid, mode="nearest")
    assert moved.dtype == torch.int16 and torch.equal(moved.as_tensor()[0, :8], labels[0, 2:])


def test_the_domain_lies_before_the_first_deformation():
    dims, fixed = 3, FIXED[3]
    assert SpatialTransform.of_affine(some_affine(dims)).domain is None
    assert some_transform(dims).domain is fixed
    after = SpatialTransform.of_affine(some_affine(dims)).then(some_transform(dims))
    corners = after.domain.corners()
    np.testing.assert_allclose(apply_affine(some_affine(dims), corners), fixed.corners(), atol=1e-9)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: AffineStep(np.full((4, 4), np.nan)), "finite"),
        (lambda: AffineStep(np.eye(5)), "3x3 or 4x4"),
        (lambda: AffineStep(np.diag([1.0, 1, 0, 1])), "singular"),
        (lambda: AffineStep(np.ones((4, 4))), "singular"),
        (lambda: AffineStep(np.eye(4) + 0.5 * np.eye(4, k=-3)), "last row"),
        (lambda: FieldStep(torch.zeros(3, 4, 4, 4), Grid((4, 4, 5), np.eye(4))), "do not fit"),
        (lambda: FieldStep(torch.full((2, 4, 4), torch.inf), Grid((4, 4), np.eye(3))), "NaN or infinite"),
        (lambda: FieldStep(torch.zeros(1, 4), Grid((4,), np.eye(2))), "two or three dimensions"),
        (lambda: SplineStep(torch.zeros(2, 4, 3), Grid((4, 3), np.eye(3))), "four nodes"),
        (lambda: SpatialTransform(()), "got 0"),
        (lambda: SpatialTransform((AffineStep(np.eye(3)), AffineStep(np.eye(4)))), "number of dimensions"),
        (lambda: some_transform(3).matrix, "cannot be written as a matrix"),
        (lambda: some_transform(3).points(np.zeros((2, 2))), r"\(N, 3\)"),
        (lambda: some_transform(3).displacement(FIXED[2]), "does not act on"),
        (lambda: some_transform(3).inverse(FIXED[2]), "does not act on"),
    ],
)
def test_what_is_no_transform(build, words):
    with pytest.raises(ValueError, match=words):
        build()
