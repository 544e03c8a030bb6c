# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Initial affines: overlap of fields of view, starts from centers and moments, and the affine part of a displacement."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, apply_affine
from monai_locor.registration.start.initial import check_kind, check_overlap, initial_affine, overlap, split_displacement
from monai_locor.registration.start.lags import smooth_length
from monai_locor.registration.start.measure import _centered_index, _placed
from monai_locor.registration.start.prepare import PreparedImage, prepare
from monai_locor.registration.start.rivals import is_plausible, stretch_of
from monai_locor.registration.start.rotations import near_rotations

from ..phantoms import ORDERS, grid_of, image, turned

CPU, IDENTITY = torch.device("cpu"), np.eye(4)
CUBE = grid_of((24, 24, 24), (2.0, 2.0, 2.0))


def shifted(*mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


def rotated(degrees: float, scale: float = 1.0) -> np.ndarray:
    cos, sin, matrix = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), np.eye(4)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    matrix[:3, :3] *= scale
    return matrix


def some_affine(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = shifted(*rng.uniform(-9, 9, 3))
    matrix[:3, :3] += 0.2 * rng.standard_normal((3, 3))
    return matrix


class TestOverlap:
    def test_a_view_lies_in_itself_and_in_a_larger_one(self):
        assert overlap(CUBE, CUBE, IDENTITY) == 1
        assert overlap(CUBE, grid_of((60, 60, 60)), IDENTITY) == 1
        assert overlap(grid_of((60, 60, 60)), CUBE, IDENTITY) == pytest.approx(1, abs=0.15)  # few of its samples lie inside

    @pytest.mark.parametrize(("shift", "share"), [(12, 0.75), (24, 0.5), (36, 0.25), (60, 0.0)])
    def test_a_shift_leaves_the_rest(self, shift, share):
        for axis in range(3):
            matrix = shifted(*(shift * (k == axis) for k in range(3)))
            assert overlap(CUBE, CUBE, matrix) == pytest.approx(share, abs=0.03)
            assert overlap(CUBE, CUBE, np.linalg.inv(matrix)) == pytest.approx(share, abs=0.03)

    @pytest.mark.parametrize(("axes", "flips"), ORDERS[1::9])
    def test_the_storage_order_does_not_matter(self, axes, flips):
        one, other = grid_of((24, 20, 16)), turned(0.3, (2.0, 2.0, 2.0), (20, 24, 22))
        expected = overlap(one, other, some_affine())
        assert overlap(one.reordered(axes, flips), other, some_affine()) == pytest.approx(expected, abs=1e-9)
        assert overlap(one, other.reordered(axes, flips), some_affine()) == pytest.approx(expected, abs=1e-9)

    def test_too_little_is_refused_with_the_share_and_the_remedy(self):
        check_overlap(CUBE, CUBE, shifted(40, 0, 0))
        with pytest.raises(InputError, match=r'share only 0 % of the smaller one; start from their centers with .*"moments"'):
            check_overlap(CUBE, CUBE, shifted(60, 0, 0))


def blob(grid: Grid, center) -> PreparedImage:
    values = np.exp(-((grid.points() - center) ** 2).sum(-1) / 50)
    return prepare(image(values, grid), None, 0.0, CPU)

    @pytest.mark.parametrize("factor", [1e6, 1e-6, 1e30])
    def test_another_unit_of_length_is_told(self, factor):
        fixed, moving = grid_of((8, 8, 8)), grid_of((8, 8, 8), (2 * factor,) * 3)
        with pytest.raises(InputError, match=r"16 and .* mm wide; check the units of length in their headers"):
            check_overlap(fixed, moving, np.eye(4))


class TestStarts:
    FIXED, MOVING = blob(CUBE, (4.0, -3.0, 2.0)), blob(grid_of((24, 24, 24), center=(30, 5, -8)), (25.0, 9.0, -6.0))

    def test_world_is_the_identity(self):
        np.testing.assert_array_equal(initial_affine(self.FIXED, self.MOVING, "world"), IDENTITY)

    def test_centers_map_to_centers_and_moments_to_moments(self):
        found = initial_affine(self.FIXED, self.MOVING, "centers")
        np.testing.assert_allclose(apply_affine(found, self.FIXED.grid.center), self.MOVING.grid.center)
        found = initial_affine(self.FIXED, self.MOVING, "moments")
        np.testing.assert_allclose(found[:3, 3], [21, 12, -8], atol=0.1)
        for matrix in (found, initial_affine(self.FIXED, self.MOVING, "centers")):
            np.testing.assert_array_equal(matrix[:3, :3], np.eye(3))

    @pytest.mark.parametrize("how", ["world", "centers", "moments"])
    def test_the_start_of_the_exchanged_images_is_the_inverse(self, how):
        ahead, back = initial_affine(self.FIXED, self.MOVING, how), initial_affine(self.MOVING, self.FIXED, how)
        np.testing.assert_allclose(ahead @ back, IDENTITY, atol=1e-9)

    @pytest.mark.parametrize(("distance", "how"), [(10, "world"), (90, "centers")])
    def test_auto_trusts_the_world_where_the_images_overlap(self, distance, how):
        far = blob(grid_of((24, 24, 24), center=(distance, 0, 0)), (distance, 0, 0))
        np.testing.assert_array_equal(initial_affine(self.FIXED, far, "auto"), initial_affine(self.FIXED, far, how))

    def test_masked_voxels_have_no_mass(self):
        weight = torch.zeros(1, *CUBE.shape)
        weight[:, :12] = 1
        both = np.exp(-((CUBE.points() - (-12, 0, 0)) ** 2).sum(-1) / 50) + np.exp(
            -((CUBE.points() - (12, 0, 0)) ** 2).sum(-1) / 50
        )
        masked = prepare(image(both, CUBE), weight, 0.0, CPU)
        found = initial_affine(blob(CUBE, (-12.0, 0, 0)), masked, "moments")
        np.testing.assert_allclose(found[:3, 3], 0, atol=0.3)


class TestSplit:
    GRID = turned(0.3, (1.5, -2.0, 3.0), (6, 5, 4))

    def displacement(self, matrix: np.ndarray, rest: np.ndarray | float = 0.0) -> torch.Tensor:
        """``A (x + w) - x``."""
        points = self.GRID.points()
        return torch.from_numpy(np.moveaxis(apply_affine(matrix, points + rest) - points, -1, 0).copy())

    def test_an_affine_map_leaves_nothing(self):
        matrix, rest = split_displacement(self.displacement(some_affine()), self.GRID)
        np.testing.assert_allclose(matrix, some_affine(), atol=1e-9)
        assert float(rest.abs().max()) < 1e-9

    def test_both_parts_together_are_the_displacement(self):
        noise = np.random.default_rng(0).standard_normal((*self.GRID.shape, 3))
        given = self.displacement(some_affine(), noise)
        matrix, rest = split_displacement(given, self.GRID)
        np.testing.assert_allclose(self.displacement(matrix, np.moveaxis(rest.numpy(), 0, -1)), given, atol=1e-9)

    def test_the_rest_has_no_affine_part(self):
        noise = np.random.default_rng(0).standard_normal((*self.GRID.shape, 3))
        _, rest = split_displacement(self.displacement(some_affine(), noise), self.GRID)
        again, same = split_displacement(rest, self.GRID)
        np.testing.assert_allclose(again, IDENTITY, atol=1e-9)
        torch.testing.assert_close(same, rest, rtol=0, atol=1e-9)


class TestKind:
    FIELD = torch.full((3, *CUBE.shape), 0.05)  # below the tolerance: 0.05 mm of voxels of 2 mm

    def test_a_deformable_transform_keeps_its_displacement(self):
        assert check_kind("deformable", IDENTITY, 100 * self.FIELD, CUBE) is not None
        assert check_kind("deformable", IDENTITY, None, CUBE) is None

    @pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
    def test_the_others_drop_rounding_and_refuse_deformations(self, kind):
        assert check_kind(kind, IDENTITY, self.FIELD, CUBE) is None
        with pytest.raises(InputError, match=f'deforms by up to 0.25 voxels and requires transform "deformable", got "{kind}"'):
            check_kind(kind, IDENTITY, 10 * self.FIELD, CUBE)
        with pytest.raises(InputError, match='the initial velocity requires transform "deformable"'):
            check_kind(kind, IDENTITY, None, CUBE, velocity=self.FIELD)

    @pytest.mark.parametrize(
        ("kind", "matrix", "warns"),
        [
            ("rigid", rotated(30), False),
            ("rigid", rotated(30, 1.1), True),
            ("similarity", rotated(30, 1.1), False),
            ("similarity", np.diag([1.1, 1, 1, 1]), True),
            ("affine", np.diag([1.1, 1, 1, 1]), False),
            ("deformable", np.diag([1.1, 1, 1, 1]), False),
            ("rigid", rotated(30, 1.0005), False),
        ],
    )
    def test_an_affine_of_another_kind_is_kept_with_a_warning(self, kind, matrix, warns, caplog):
        check_kind(kind, matrix, None, CUBE)
        assert bool(re.search("changes lengths by factors from", caplog.text)) == warns

    def test_a_reflection_is_doubtful(self, caplog):
        check_kind("affine", np.diag([-1.0, 1, 1, 1]), None, CUBE)
        assert "left and right are exchanged" in caplog.text


class TestSearch:
    @pytest.mark.parametrize(("dims", "count"), [(2, 13), (3, 27)])
    def test_rotations_are_rotations_with_their_inverses(self, dims, count):
        found = np.stack(near_rotations(dims))
        assert found.shape == (count, dims, dims)
        np.testing.assert_allclose(found @ found.swapaxes(1, 2), np.broadcast_to(np.eye(dims), found.shape), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(found), 1)
        distances = np.abs(found[:, None].swapaxes(2, 3) - found[None]).max((2, 3))
        assert (distances.min(1) < 1e-12).all() and (distances < 1e-12).sum() == count  # each inverse once

    def test_lengths_of_transforms_have_small_factors(self):
        for n in range(1, 200):
            rest = found = smooth_length(n)
            for prime in (2, 3, 5):
                while rest % prime == 0:
                    rest //= prime
            assert rest == 1 and n <= found < 1.34 * n + 1
            assert smooth_length(found) == found

    def test_stretch_is_relative_to_the_initial_matrix(self):
        initial = some_affine()
        np.testing.assert_allclose(stretch_of(initial, initial), 1)
        np.testing.assert_allclose(stretch_of(np.diag([2.0, 0.5, 1, 1]) @ initial, initial), [2, 1, 0.5])
        assert is_plausible(np.array([1.6, 1.0, 0.6]))
        assert not is_plausible(np.array([1.61, 1, 1])) and not is_plausible(np.array([1, 1, 0.59]))

    def test_a_lattice_is_centered_on_the_place_of_its_origin(self):
        index = _centered_index((4, 3))
        assert index.shape == (12, 2) and not index.sum(0).any()
        placed = _placed(np.diag([2.0, 3.0]), np.array([5.0, -1.0]))
        np.testing.assert_allclose(apply_affine(placed, index).mean(0), [5, -1])
