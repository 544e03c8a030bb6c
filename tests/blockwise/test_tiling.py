# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tiles cover every voxel once, and their weights sum to one."""

import numpy as np
import pytest

from monai_locor.blockwise.tiling import Tiling, boxes
from monai_locor.geometry.partition import grown

CASES = [((50,), (20,), (8,), 1), ((33, 20, 47), (16, 24, 16), (6, 4, 12), 4), ((16, 16), (40, 8), (4, 4), 8)]


@pytest.mark.parametrize(("shape", "core", "halo", "unit"), CASES)
def test_cores_cover_every_voxel_once(shape, core, halo, unit):
    tiling, seen = Tiling.of(shape, core, halo, unit), np.zeros(shape, int)
    for number in tiling:
        seen[tiling.core(number)] += 1
        assert all(a.start <= b.start < b.stop <= a.stop for a, b in zip(tiling.box(number), tiling.core(number), strict=True))
    assert (seen == 1).all()
    assert all(edge % unit == 0 for edges in tiling.edges for edge in edges[1:-1])


@pytest.mark.parametrize(("shape", "core", "halo", "unit"), CASES)
def test_weights_sum_to_one_everywhere_and_vanish_outside_of_the_tile(shape, core, halo, unit):
    tiling = Tiling.of(shape, core, halo, unit)
    positions = [np.linspace(-5, n + 4, 157) for n in shape]
    for axis, where in enumerate(positions):
        rows = {tiling.position(n)[axis]: tiling.weights(n, axis, where) for n in tiling}
        assert np.allclose(sum(rows.values()), 1, atol=1e-12)
        assert all((row >= -1e-12).all() for row in rows.values())
    for number in tiling:
        for axis, where in enumerate(positions):
            weights, (low, high) = tiling.weights(number, axis, where), tiling.reach(number, axis)
            outside = (where < low) | (where > high)
            assert np.allclose(weights[outside], 0, atol=1e-12)
            part = tiling.box(number)[axis]  # a quarter of the halo at least is only there to be thrown away
            inner = (where > part.start - 0.5) & (where < part.stop - 0.5)
            beyond = (where < 0) | (where > shape[axis] - 1)
            assert np.allclose(weights[~inner & ~beyond], 0, atol=1e-12)


def test_weights_are_smooth():
    tiling, where = Tiling.of((64,), (32,), (16,)), np.linspace(0, 63, 6301)
    slope = np.gradient(np.gradient(tiling.weights(0, 0, where), where), where)
    assert np.abs(np.diff(slope)).max() < 0.02 * np.abs(slope).max()


def test_boxes_and_margins_stay_in_the_grid():
    seen = np.zeros((7, 10), int)
    for box in boxes((7, 10), (3, 4)):
        seen[box] += 1
    assert (seen == 1).all()
    assert grown((slice(0, 3), slice(4, 8)), (7, 10), (2, 5)) == (slice(0, 5), slice(0, 10))
