# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Splines per axis and coordinates of FSL: interpolation conditions, agreement with SciPy, independence of storage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_locor.geometry import SpatialTransform, apply_affine
from monai_locor.io.lps import lps_signs
from monai_locor.io.transforms.fsl_space import from_fsl, is_swapped, positions, to_fsl
from monai_locor.io.transforms.splines import fitted_spline, quadratic_zoom

from ..phantoms import ORDERS, turned

GRID = turned(0.3, (1.5, 2.0, 3.0), (5, 6, 4))


class TestQuadraticZoom:
    @pytest.mark.parametrize(("old", "new"), [((5, 6, 7), (9, 6, 4)), ((4, 4), (13, 1)), ((1, 5), (3, 10)), ((2, 3), (5, 5))])
    def test_it_is_scipys(self, old, new):
        field = torch.rand(2, *old, dtype=torch.float64)
        found = quadratic_zoom(field, new)
        for one, given in zip(found, field.numpy(), strict=True):
            zoom = [n / o for n, o in zip(new, old)]
            np.testing.assert_allclose(one, ndimage.zoom(given, zoom, order=2), atol=1e-9)

    def test_the_same_shape_changes_nothing(self):
        field = torch.rand(3, 5, 6, 4, dtype=torch.float64)
        torch.testing.assert_close(quadratic_zoom(field, (5, 6, 4)), field)

    def test_corners_are_kept_and_constants_reproduced(self):
        field = torch.rand(1, 5, 6, dtype=torch.float64)
        found = quadratic_zoom(field, (11, 17))
        torch.testing.assert_close(found[:, ::10, ::16], field[:, ::4, ::5])
        torch.testing.assert_close(quadratic_zoom(torch.full_like(field, 3.5), (11, 17)), torch.full_like(found, 3.5))

    def test_linear_and_equivariant_under_flips(self):
        a, b = torch.rand(2, 1, 5, 6, dtype=torch.float64)
        zoomed = [quadratic_zoom(x, (9, 7)) for x in (a, b, 2 * a - b, a.flip(1))]
        torch.testing.assert_close(zoomed[2], 2 * zoomed[0] - zoomed[1])
        torch.testing.assert_close(zoomed[3], zoomed[0].flip(1))


class TestFittedSpline:
    def field(self, values: np.ndarray) -> SpatialTransform:
        return SpatialTransform.of_field(torch.from_numpy(values), GRID)

    def test_it_interpolates_the_voxels(self):
        given = self.field(np.random.default_rng(0).uniform(-3, 3, (3, *GRID.shape)))
        points = GRID.points().reshape(-1, 3)
        found = SpatialTransform((fitted_spline(given, GRID),))
        np.testing.assert_allclose(found.points(points), given.points(points), atol=1e-5)

    def test_an_affine_map_is_reproduced_between_the_voxels_as_well(self):
        matrix = np.eye(4)
        matrix[:3] += 0.1 * np.random.default_rng(1).standard_normal((3, 4))
        found = SpatialTransform((fitted_spline(SpatialTransform.of_affine(matrix), GRID),))
        index = np.random.default_rng(2).uniform(0, 1, (40, 3)) * (np.array(GRID.shape) - 1)
        points = apply_affine(GRID.affine, index)
        np.testing.assert_allclose(found.points(points), apply_affine(matrix, points), atol=1e-4)

    def test_the_lattice_has_one_node_per_voxel_one_before_and_two_after(self):
        lattice = fitted_spline(self.field(np.zeros((3, *GRID.shape))), GRID).grid
        assert lattice.shape == tuple(n + 3 for n in GRID.shape)
        inner = tuple(slice(1, n + 1) for n in GRID.shape)
        np.testing.assert_allclose(lattice.points()[inner], GRID.points(), atol=1e-9)


class TestFslSpace:
    @pytest.mark.parametrize(("axes", "flips"), ORDERS[::5])
    def test_there_and_back(self, axes, flips):
        grid = GRID.reordered(axes, flips)
        np.testing.assert_allclose(from_fsl(grid) @ to_fsl(grid), grid.affine, atol=1e-9)
        np.testing.assert_allclose(apply_affine(from_fsl(grid), positions(grid)), grid.points(), atol=1e-9)

    @pytest.mark.parametrize(("axes", "flips"), ORDERS[::5])
    def test_coordinates_are_radiological_millimeters_from_zero(self, axes, flips):
        """Lengths are kept, no coordinate is negative, and the map to the world always mirrors."""
        grid = GRID.reordered(axes, flips)
        found = positions(grid)
        np.testing.assert_allclose(found.reshape(-1, 3).min(0), 0, atol=1e-9)
        np.testing.assert_allclose(found.reshape(-1, 3).max(0), grid.spacing * (np.array(grid.shape) - 1), atol=1e-9)
        assert np.linalg.det(from_fsl(grid)) == pytest.approx(-1)

    def test_a_flip_of_the_first_axis_changes_nothing_in_fsl(self):
        """FSL orders voxels by handedness, so the coordinates of a world position stay."""
        flipped = GRID.reordered((0, 1, 2), (True, False, False))
        assert is_swapped(GRID) != is_swapped(flipped)
        np.testing.assert_allclose(from_fsl(flipped), from_fsl(GRID), atol=1e-9)

    def test_a_flip_of_another_axis_does(self):
        flipped = GRID.reordered((0, 1, 2), (False, True, False))
        assert np.abs(from_fsl(flipped) - from_fsl(GRID)).max() > 1


@pytest.mark.parametrize("dims", [2, 3])
def test_the_signs_of_lps_are_their_own_inverse(dims):
    signs = lps_signs(dims)
    np.testing.assert_array_equal(signs**2, 1)
    assert signs.tolist() == [-1, -1, 1][:dims]
