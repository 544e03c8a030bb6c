# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Slabs: together they are the volume, each with its own part of the grid. Boxes: inside the grid."""

from __future__ import annotations

import numpy as np
import pytest

from monai_locor.geometry import grid_slabs, slabs
from monai_locor.geometry.partition import VOXELS_PER_SLAB, grown

from ..phantoms import turned

GRID = turned(0.4, (1.5, -2.0, 3.0), (11, 4, 3))


@pytest.mark.parametrize("shape", [(1, 3), (7, 4, 5), (100, 1, 1)])
@pytest.mark.parametrize("voxels", [1, 20, 60, 10**6])
def test_slabs_cover_the_axis_once_within_the_limit(shape, voxels):
    found = slabs(shape, voxels)
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(shape[0]))
    plane = int(np.prod(shape[1:]))
    longest = max(part.stop - part.start for part in found)
    assert longest * plane <= max(voxels, plane)
    assert len(found) == -(-shape[0] // max(1, voxels // plane))


@pytest.mark.parametrize("voxels", [5, 24, 36, 50, 1000])
def test_slabs_differ_by_at_most_one_plane(voxels):
    sizes = [part.stop - part.start for part in slabs(GRID.shape, voxels)]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_a_larger_limit_never_needs_more_slabs():
    numbers = [len(slabs((37, 5, 6), voxels)) for voxels in range(1, 1300)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == 37 and numbers[-1] == 1


@pytest.mark.parametrize("voxels", [1, 30, 10**6])
def test_grid_slabs_hold_the_positions_of_the_whole_grid_in_order(voxels, monkeypatch):
    monkeypatch.setitem(VOXELS_PER_SLAB, "cpu", voxels)
    parts = list(grid_slabs(GRID))
    assert [rows for rows, _ in parts] == slabs(GRID.shape, voxels)
    np.testing.assert_allclose(np.concatenate([part.points() for _, part in parts]), GRID.points(), atol=1e-12)
    for rows, part in parts:
        np.testing.assert_allclose(part.points(), GRID.points()[rows], atol=1e-12)
        np.testing.assert_array_equal(part.spacing, GRID.spacing)


@pytest.mark.parametrize("by", [0, 1, 2, 5, (3, 0, 1)])
def test_a_grown_box_holds_the_voxels_within_the_margin(by):
    box, shape = (slice(3, 5), slice(0, 2), slice(4, 6)), (9, 4, 6)
    margins = by if isinstance(by, tuple) else (by,) * 3
    for found, part, n, margin in zip(grown(box, shape, by), box, shape, margins, strict=True):
        near = [i for i in range(n) if any(abs(i - j) <= margin for j in range(part.start, part.stop))]
        assert list(range(found.start, found.stop)) == near


def test_a_margin_for_every_axis_is_asked_for():
    with pytest.raises(ValueError, match="shorter"):
        grown((slice(3, 5), slice(0, 2)), (9, 4), (1,))
