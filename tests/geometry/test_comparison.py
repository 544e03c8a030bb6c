# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Comparison of grids and planes: reflexive, symmetric, in units of a voxel, and independent of the storage order."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, check_planes, plane_angle, same_grid
from monai_locor.geometry.comparison import SAME_GRID_VOXELS

from ..phantoms import ORDERS, turned

GRID = turned(0.3, (1.5, -2.0, 3.0), (6, 5, 4))


def moved(grid: Grid, shift) -> Grid:
    affine = grid.affine.copy()
    affine[:-1, -1] += shift
    return replace(grid, affine=affine)


def slice_tilted(degrees: float, axis: int = 1) -> Grid:
    """A sagittal slice, turned about one of its axes in the world."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(3)
    others = [k for k in range(3) if k != axis]
    turn[np.ix_(others, others)] = [[cos, -sin], [sin, cos]]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, 4.0], [1.5, 0, 0], [0, 2.0, 0]])
    affine[:3, 3] = 3, -20, -30
    return Grid.placed((7, 9), affine)


class TestSameGrid:
    def test_a_grid_equals_itself_and_a_copy(self):
        assert same_grid(GRID, GRID)
        assert same_grid(GRID, Grid(GRID.shape, GRID.affine))

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
    def test_the_tolerance_is_a_share_of_the_smallest_voxel_size(self, scale):
        """In any unit of length, and in both directions."""
        grid = Grid(GRID.shape, np.diag([scale] * 3 + [1.0]) @ GRID.affine)
        smallest = float(grid.spacing.min())
        for factor, expected in ((0.9, True), (1.1, False)):
            other = moved(grid, [factor * SAME_GRID_VOXELS * smallest, 0, 0])
            assert same_grid(grid, other) == same_grid(other, grid) == expected

    def test_another_shape_is_another_grid(self):
        assert not same_grid(GRID, Grid((6, 5, 5), GRID.affine))
        assert not same_grid(GRID, Grid(GRID.shape[:2], np.eye(3)))

    def test_a_small_turn_shows_at_the_corners(self):
        """The same origin and nearly the same affine, but the far corner is off by more than the tolerance."""
        angle = 2 * SAME_GRID_VOXELS / 200
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        small, large = Grid((3, 3, 3), np.eye(4)), Grid((300, 3, 3), np.eye(4))
        assert same_grid(small, Grid(small.shape, turn))
        assert not same_grid(large, Grid(large.shape, turn))

    @pytest.mark.parametrize(("axes", "flips"), ORDERS[1::7])
    def test_the_storage_order_counts(self, axes, flips):
        """Arrays in another order are not interchangeable, but two grids in the same order compare as before."""
        other = GRID.reordered(axes, flips)
        assert not same_grid(GRID, other)
        near = moved(GRID, [0.5 * SAME_GRID_VOXELS, 0, 0]).reordered(axes, flips)
        assert same_grid(other, near)


class TestPlaneAngle:
    @pytest.mark.parametrize("axis", [1, 2])
    @pytest.mark.parametrize("degrees", [0.0, 0.01, 3.0, 45.0, 90.0])
    def test_it_is_the_angle_of_the_turn(self, axis, degrees):
        first, second = slice_tilted(0.0), slice_tilted(degrees, axis)
        assert plane_angle(first, second) == pytest.approx(degrees, abs=1e-6)
        assert plane_angle(second, first) == pytest.approx(degrees, abs=1e-6)

    def test_turns_beyond_a_right_angle_come_back(self):
        """A plane has no front and back: 170 degrees are 10, 180 degrees are 0."""
        assert plane_angle(slice_tilted(0.0), slice_tilted(170.0)) == pytest.approx(10)
        assert plane_angle(slice_tilted(0.0), slice_tilted(180.0)) == pytest.approx(0, abs=1e-6)

    def test_turns_within_the_plane_and_shifts_do_not_count(self):
        first = slice_tilted(20.0)
        full = first.full_affine.copy()
        full[:3, :2] = full[:3, :2] @ [[0.6, -0.8], [0.8, 0.6]]
        full[:3, 3] += [5, 6, 7]
        within = Grid.placed((7, 9), full)
        assert plane_angle(first, within) == pytest.approx(0, abs=1e-6)


class TestCheckPlanes:
    def test_parallel_and_three_dimensional_grids_pass_silently(self, caplog):
        check_planes(slice_tilted(0.0), slice_tilted(0.4), ("a", "b"))
        check_planes(GRID, GRID.reordered((2, 0, 1), (True, False, False)), ("a", "b"))
        assert not caplog.records

    def test_the_message_names_both_images_the_angle_and_the_remedy(self, caplog):
        check_planes(slice_tilted(0.0), slice_tilted(3.0), ("t1.nii", "t2.nii"))
        assert re.search(r"t1\.nii and t2\.nii .* 3 degrees", caplog.text)
        with pytest.raises(InputError, match=r"t1\.nii and t2\.nii .* 6 degrees apart; give slices of one plane"):
            check_planes(slice_tilted(0.0), slice_tilted(6.0), ("t1.nii", "t2.nii"))
