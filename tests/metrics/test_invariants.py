# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Properties that all measures share: identity, symmetry, storage order, units of length, and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, reorder
from monai_locor.metrics import (
    dice_per_label,
    hausdorff_per_label,
    inverse_consistency,
    jacobian_statistics,
    mean_over_labels,
    non_diffeomorphic_volume,
    normalized_mutual_information,
    target_registration_error,
)
from monai_locor.metrics.arrays import field_statistics, jacobian_statistics_of_array, simplices
from monai_locor.metrics.ndv import determinant
from monai_locor.metrics.selection import check_displacement, select, spatial_mask

from ..phantoms import ORDERS, grid_of, turned

GRID = turned(0.3, (1.5, -2.0, 3.0), (7, 6, 5))
SOME_ORDERS = ORDERS[1::11]


def noise(channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(channels, *GRID.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestStorageOrder:
    """Vectors are in world space, so that only the voxels move."""

    @pytest.mark.parametrize(("axes", "flips"), SOME_ORDERS)
    def test_statistics_of_a_field(self, axes, flips):
        u, other = noise(), GRID.reordered(axes, flips)
        moved = reorder(u, axes, flips)
        one, two = jacobian_statistics(u, GRID), jacobian_statistics(moved, other)
        assert two == pytest.approx(one, rel=1e-9)
        assert field_statistics(moved.numpy()) == pytest.approx(field_statistics(u.numpy()))
        mask = noise(1, 1) > 0.5
        found = non_diffeomorphic_volume(moved, other, reorder(mask, axes, flips))
        assert found == pytest.approx(non_diffeomorphic_volume(u, GRID, mask), rel=1e-6)

    @pytest.mark.parametrize(("axes", "flips"), SOME_ORDERS)
    def test_overlap_and_distance_of_labels(self, axes, flips):
        a, b = (torch.round(2.4 * noise(1, seed)).long() for seed in (0, 1))
        moved = [reorder(x, axes, flips) for x in (a, b)]
        assert dice_per_label(*moved) == dice_per_label(a, b)
        plain = Grid(GRID.shape, np.diag([*GRID.spacing, 1.0]))
        found = hausdorff_per_label(*moved, plain.reordered(axes, flips))
        assert found == pytest.approx(hausdorff_per_label(a, b, plain))

    @pytest.mark.parametrize(("axes", "flips"), SOME_ORDERS)
    def test_information_and_errors(self, axes, flips):
        a, b = noise(1), noise(1, 1)
        one, two = (
            normalized_mutual_information(x, y) for x, y in ((a, b), (reorder(a, axes, flips), reorder(b, axes, flips)))
        )
        assert two == pytest.approx(one, abs=1e-12)
        errors = target_registration_error(noise(), noise(3, 1))
        moved = target_registration_error(reorder(noise(), axes, flips), reorder(noise(3, 1), axes, flips))
        torch.testing.assert_close(moved.sort().values, errors.sort().values)


class TestIdentity:
    def test_no_displacement_changes_nothing(self):
        zero = torch.zeros(3, *GRID.shape)
        found = jacobian_statistics(zero, GRID)
        assert [found[name] for name in ("min", "p50", "max")] == [1, 1, 1]
        assert (found["std_log"], found["folding_voxels"], found["ndv"]) == (0, 0, 0)
        assert field_statistics(zero.numpy()) == {"mean": 0, "p95": 0, "max": 0}
        assert not inverse_consistency(zero, GRID, zero, GRID).any()

    def test_a_map_and_itself(self):
        labels = torch.round(3 * noise(1)).long()
        assert set(dice_per_label(labels, labels).values()) == {1.0}
        assert set(hausdorff_per_label(labels, labels, GRID).values()) == {0.0}
        assert normalized_mutual_information(noise(1), noise(1)) == pytest.approx(2)
        assert not target_registration_error(noise(), noise()).any()

    def test_symmetry(self):
        a, b = noise(), noise(3, 1)
        torch.testing.assert_close(target_registration_error(a, b), target_registration_error(b, a))
        assert normalized_mutual_information(a[:1], b[:1]) == pytest.approx(normalized_mutual_information(b[:1], a[:1]))
        first, second = (torch.round(2.4 * x[:1]).long() for x in (a, b))
        assert dice_per_label(first, second) == dice_per_label(second, first)


class TestUnits:
    @pytest.mark.parametrize("scale", [1e-3, 1e3])
    def test_ratios_do_not_depend_on_the_unit_of_length(self, scale):
        other = Grid(GRID.shape, np.diag([scale] * 3 + [1.0]) @ GRID.affine)
        assert jacobian_statistics(scale * noise(), other) == pytest.approx(jacobian_statistics(noise(), GRID), rel=1e-6)

    @pytest.mark.parametrize("scale", [0.5, 3.0])
    def test_lengths_are_proportional_to_it(self, scale):
        one, two = (field_statistics(s * noise().numpy()) for s in (1.0, scale))
        assert two == pytest.approx({name: scale * value for name, value in one.items()})

    def test_a_uniform_scaling_of_the_world(self):
        points = torch.from_numpy(GRID.points()).movedim(-1, 0)
        for factor in (0.5, 0.9, 1.5):
            found = jacobian_statistics((factor - 1) * points, GRID)
            assert (found["min"], found["max"]) == pytest.approx((factor**3, factor**3)) and found["ndv"] == 0


class TestArrays:
    @pytest.mark.parametrize("shape", [(9, 8), (1, 6, 5), (3, 3, 3)])
    def test_they_are_those_of_torch(self, shape):
        grid = grid_of(shape, (1.5,) * len(shape))
        u = torch.randn(len(shape), *shape)
        found, expected = jacobian_statistics_of_array(u.numpy(), grid), jacobian_statistics(u, grid)
        assert {k: v for k, v in found.items() if v is not None} == pytest.approx(
            {k: v for k, v in expected.items() if v is not None and k in found}, rel=1e-4, abs=1e-5
        )

    @pytest.mark.parametrize(("dims", "count", "volume"), [(2, 4, 2 * 2), (3, 10, 2 * 6)])
    def test_simplices_fill_their_cells_once_per_division(self, dims, count, volume):
        found = np.array(simplices(dims))
        assert found.shape == (count, dims, dims)
        # each corner simplex is one of 2^D cells; the cells of both divisions together count twice
        assert np.abs(np.linalg.det(found)).sum() == pytest.approx(volume)

    @pytest.mark.parametrize("dims", [2, 3])
    def test_determinants_are_those_of_the_library(self, dims):
        matrices = torch.randn(20, dims, dims, dtype=torch.float64)
        columns = [matrices[:, :, k].T for k in range(dims)]
        torch.testing.assert_close(determinant(columns), torch.linalg.det(matrices))


class TestSelection:
    def test_masks_with_and_without_channel_choose_the_same(self):
        mask = noise(1) - 0.5
        expected = noise(1, 1)[0][mask[0] > 0]
        for given in (mask, mask[0], mask[0] > 0):
            torch.testing.assert_close(select(noise(1, 1)[0], given), expected)
        torch.testing.assert_close(select(noise(1, 1)[0], None), noise(1, 1).flatten())

    def test_empty_masks_and_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="the mask is empty: there is no voxel to evaluate"):
            select(noise(1)[0], torch.zeros(GRID.shape))
        with pytest.raises(ValueError, match=r"the mask must be \(7, 6, 5\), got \(2, 7, 6, 5\)"):
            spatial_mask(torch.ones(2, *GRID.shape), GRID.shape)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_values_that_are_not_finite_are_counted(self, value):
        u = noise()
        u[0, 0, 0, 0] = u[1, 2, 3, 4] = value
        with pytest.raises(ValueError, match="the displacement has 2 values that are not finite"):
            check_displacement(u, GRID)

    def test_means_over_labels(self):
        assert mean_over_labels({1: 0.5, 2: 1.0}) == 0.75 and np.isnan(mean_over_labels({}))
        assert mean_over_labels({7: 0.3}) == 0.3
