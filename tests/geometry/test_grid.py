# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Grids: the world positions of voxels survive every change of storage, and bad affines are refused."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.geometry import Grid, apply_affine, stored_order, voxel_to_voxel

OBLIQUE = np.array([[-1.4, 0.3, 0.2, 10], [0.2, 0.2, 2.5, -5], [0.1, -1.9, 0.3, 3], [0, 0, 0, 1.0]])
SHEARED = np.array([[2.0, 0.9, 0.1, -7], [0, 1.5, -0.6, 4], [0, 0.2, 3.0, 1], [0, 0, 0, 1]])
PLANE = np.array([[0.3, -1.5, 2], [-1.1, 0.2, 4], [0, 0, 1.0]])
GRIDS = {"oblique": Grid((5, 7, 4), OBLIQUE), "sheared": Grid((6, 3, 5), SHEARED), "plane": Grid((6, 5), PLANE)}


def orders(dims: int) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    return list(product(permutations(range(dims)), product((False, True), repeat=dims)))


def stored(array: np.ndarray, axes, flips) -> np.ndarray:
    """Permute and flip the leading axes with numpy alone."""
    out = np.moveaxis(array, axes, range(len(axes)))
    return out[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


@pytest.fixture(params=list(GRIDS))
def grid(request) -> Grid:
    return GRIDS[request.param]


class TestMeasures:
    def test_points_are_where_the_affine_says(self, grid):
        index = np.array([n - 2 for n in grid.shape])
        expected = grid.affine[:-1, :-1] @ index + grid.affine[:-1, -1]
        np.testing.assert_allclose(grid.points()[tuple(index)], expected)
        assert grid.points().shape == (*grid.shape, grid.dims)

    def test_spacing_extent_center_and_corners(self, grid):
        points = grid.points()
        origin = points[(0,) * grid.dims]
        for axis in range(grid.dims):
            neighbor = points[tuple(int(i == axis) for i in range(grid.dims))]
            assert grid.spacing[axis] == pytest.approx(np.linalg.norm(neighbor - origin))
        np.testing.assert_allclose(grid.extent, grid.spacing * grid.shape)
        flat = points.reshape(-1, grid.dims)
        np.testing.assert_allclose(grid.center, flat.mean(0))
        assert len(grid.corners()) == 2**grid.dims
        for corner in grid.corners():
            assert np.linalg.norm(flat - corner, axis=1).min() < 1e-9
        np.testing.assert_allclose(grid.corners().max(0), flat.max(0))

    def test_the_affine_cannot_be_changed_from_outside(self):
        mine = np.eye(4)
        grid = Grid((2, 3, 4), mine)
        mine[0, 0] = 5
        assert grid.affine[0, 0] == 1
        with pytest.raises(ValueError, match="read-only"):
            grid.affine[0, 0] = 3


class TestOfImage:
    def test_meta_tensor(self):
        image = MetaTensor(torch.zeros(2, 5, 7, 4), affine=torch.from_numpy(OBLIQUE))
        assert Grid.of(image).shape == (5, 7, 4)
        np.testing.assert_array_equal(Grid.of(image).affine, OBLIQUE)

    def test_flat_meta_tensor_with_its_4x4_affine(self):
        full = np.eye(4)
        full[:2, :2], full[:2, 3], full[2, 3] = PLANE[:2, :2], PLANE[:2, 2], 99
        grid = Grid.of(MetaTensor(torch.zeros(1, 6, 5), affine=torch.from_numpy(full)))
        assert grid.dims == 2 and grid.shape == (6, 5)
        np.testing.assert_array_equal(grid.affine, PLANE)

    def test_plain_tensors_have_unit_voxels(self):
        grid = Grid.of(torch.zeros(3, 4, 5))
        assert grid.shape == (4, 5)
        np.testing.assert_array_equal(grid.affine, np.eye(3))


class TestStorageOrder:
    def test_reordered_keeps_every_voxel_at_its_place(self, grid):
        for axes, flips in orders(grid.dims):
            other = grid.reordered(axes, flips)
            np.testing.assert_allclose(other.points(), stored(grid.points(), axes, flips), atol=1e-9)

    def test_canonical_order_is_the_same_for_all_orders(self, grid):
        expected = grid.reordered(*grid.canonical_order())
        for axes, flips in orders(grid.dims):
            other = grid.reordered(axes, flips)
            canonical = other.reordered(*other.canonical_order())
            assert canonical.shape == expected.shape
            np.testing.assert_allclose(canonical.affine, expected.affine, atol=1e-9)

    @pytest.mark.parametrize("seed", range(20))
    def test_canonical_order_of_any_rotation(self, seed):
        rng = np.random.default_rng(seed)
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.standard_normal((3, 3)))[0] * rng.uniform(0.5, 5, 3)
        grid = Grid((3, 4, 5), affine)
        expected = grid.reordered(*grid.canonical_order())
        for axes, flips in orders(3):
            other = grid.reordered(axes, flips)
            np.testing.assert_allclose(other.reordered(*other.canonical_order()).affine, expected.affine, atol=1e-9)

    def test_canonical_axes_are_the_nearest_to_the_world(self, grid):
        canonical = grid.reordered(*grid.canonical_order())
        linear = canonical.affine[:-1, :-1] / canonical.spacing
        assert (np.diag(linear) > 0).all()
        assert (np.abs(linear).argmax(0) == np.arange(grid.dims)).all()
        assert canonical.canonical_order() == (tuple(range(grid.dims)), (False,) * grid.dims)

    def test_stored_order_undoes_it(self, grid):
        for axes, flips in orders(grid.dims):
            back = grid.reordered(axes, flips).reordered(*stored_order(axes, flips))
            assert back.shape == grid.shape
            np.testing.assert_allclose(back.affine, grid.affine, atol=1e-9)


class TestResampled:
    @pytest.mark.parametrize("step", [(3.0, 4.0, 2.5), (1.0, 0.7, 1.3), (100.0, 2.0, 100.0)])
    def test_centered_inside_and_as_far_apart_as_asked(self, grid, step):
        step = np.array(step[: grid.dims])
        coarse = grid.resampled(step)
        np.testing.assert_allclose(coarse.spacing, step)
        np.testing.assert_allclose(coarse.center, grid.center)
        np.testing.assert_allclose(coarse.affine[:-1, :-1] / coarse.spacing, grid.affine[:-1, :-1] / grid.spacing)
        voxels = apply_affine(np.linalg.inv(grid.affine), coarse.points().reshape(-1, grid.dims))
        assert (voxels > -1e-6).all() and (voxels < np.array(grid.shape) - 1 + 1e-6).all()
        # one more sample would not fit
        assert (np.array(coarse.shape) * step > (np.array(grid.shape) - 1) * grid.spacing - 1e-6).all()

    def test_its_own_spacing_changes_nothing(self, grid):
        same = grid.resampled(grid.spacing)
        assert same.shape == grid.shape
        np.testing.assert_allclose(same.affine, grid.affine, atol=1e-9)


def test_cropped_voxels_stay_where_they_are(grid):
    box = tuple(slice(1, n - 1) for n in grid.shape)
    inner = grid.cropped(box)
    np.testing.assert_allclose(inner.points(), grid.points()[box], atol=1e-9)
    assert inner.shape == tuple(n - 2 for n in grid.shape)


class TestSnapped:
    @pytest.mark.parametrize("shift", [0.0, 1e-14, -1e-13])
    def test_rounding_errors_of_the_origin_vanish(self, grid, shift):
        moved = grid.affine.copy()
        moved[:-1, -1] += shift
        np.testing.assert_array_equal(Grid(grid.shape, moved).snapped().affine, grid.snapped().affine)

    def test_voxels_stay_where_they_are(self, grid):
        moved = grid.affine.copy()
        moved[:-1, -1] += np.pi * 100
        near = Grid(grid.shape, moved)
        np.testing.assert_allclose(near.snapped().points(), near.points(), atol=1e-9 * grid.spacing.min(), rtol=0)


class TestPlaceless:
    @pytest.mark.parametrize("linear", [np.eye(3), np.diag([-1.0, -1, 1])])
    def test_voxels_of_one_millimeter_at_the_origin(self, linear):
        affine = np.eye(4)
        affine[:-1, :-1] = linear
        assert Grid((3, 4, 5), affine).placeless

    @pytest.mark.parametrize("spacing", [(2.0, 2, 2), (1, 1, 1.5), (0.9, 0.9, 0.9)])
    def test_other_voxels_were_written_on_purpose(self, spacing):
        assert not Grid((3, 4, 5), np.diag([*spacing, 1.0])).placeless

    def test_so_was_a_rotation(self):
        assert not Grid((3, 4, 5), np.diag([1.0, 1, 1, 1])[[1, 0, 2, 3]]).placeless

    def test_centered_on_the_origin_as_of_analyze(self):
        affine = np.diag([-2.0, 3, 1.5, 1])
        affine[:-1, -1] = [2.0, -4.5, -3]
        assert Grid((3, 4, 5), affine).placeless
        for axis in range(3):
            moved = affine.copy()
            moved[axis, -1] += 0.5
            assert not Grid((3, 4, 5), moved).placeless
        assert not Grid((3, 4, 5), -affine @ np.diag([1.0, 1, 1, -1])).placeless


class TestVoxelToVoxel:
    @pytest.mark.parametrize("world", [None, np.array([[0.9, 0.2, 0, 5], [-0.2, 0.9, 0, 1], [0, 0, 1.1, 2], [0, 0, 0, 1]])])
    def test_goes_through_the_world(self, world):
        source, target = GRIDS["oblique"], GRIDS["sheared"]
        index = np.random.default_rng(0).uniform(-3, 9, (50, 3))
        points = apply_affine(source.affine, index)
        points = points if world is None else apply_affine(world, points)
        mapped = apply_affine(voxel_to_voxel(source, target, world), index)
        np.testing.assert_allclose(apply_affine(target.affine, mapped), points, atol=1e-9)

    def test_there_and_back_is_the_identity(self):
        a, b = GRIDS["oblique"], GRIDS["sheared"]
        np.testing.assert_allclose(voxel_to_voxel(a, b) @ voxel_to_voxel(b, a), np.eye(4), atol=1e-12)


class TestExceptions:
    @pytest.mark.parametrize(
        ("affine", "message"),
        [
            (np.eye(3), "4x4"),
            (np.diag([1.0, 0, 1, 1]), "not invertible"),
            (np.diag([1.0, np.nan, 1, 1]), "not finite"),
            (np.diag([1.0, np.inf, 1, 1]), "not finite"),
            (np.array([[1.0, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0], [0, 0, 0, 1]]), "not invertible"),
        ],
    )
    def test_bad_affines_are_refused(self, affine, message):
        with pytest.raises(ValueError, match=message):
            Grid((2, 3, 4), affine)

    @pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e3, 1e6])
    def test_any_unit_of_length_is_fine(self, unit):
        grid = Grid((4, 5, 6), np.diag([unit, 2 * unit, unit, 1]))
        assert grid.resampled(2 * grid.spacing).shape == (2, 3, 3)
        np.testing.assert_allclose(voxel_to_voxel(grid, grid), np.eye(4), atol=1e-9)
