# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The error map: its invariants, undetermined regions, and values at points."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, reorder
from monai_locor.quality import ErrorMap, estimate_error
from monai_locor.quality.error_estimate import _interpolation
from monai_locor.quality.error_features import FEATURES
from monai_locor.quality.error_model import MODEL_FILE, ErrorModel
from monai_locor.quality.local_shift import local_shift

from ..phantoms import anatomy, grid_of
from ..report.results import GRID, GRID_2D, aligned, shift

ORDER = (2, 0, 1), (True, False, True)


@pytest.fixture(scope="module")
def pair():
    return aligned(GRID)


def estimated(pair, forward, grid: Grid = GRID, **weights) -> ErrorMap:
    return estimate_error(pair[0].as_tensor(), grid, pair[1].as_tensor(), grid, forward, **weights)


def median(found: ErrorMap) -> float:
    return float(found.expected_mm[found.determined].median())


@pytest.fixture(scope="module")
def in_place(pair):
    return estimated(pair, shift(GRID, 0.0, 0.0, 0.0))


def test_a_displaced_image_has_more_error(pair, in_place):
    displaced = estimated(pair, shift(GRID, 4.0, 0.0, 0.0))
    assert median(displaced) > 1.5 * median(in_place)
    assert median(in_place) < float(GRID.spacing[0])
    for found in (in_place, displaced):
        known = found.determined
        assert (found.low_mm < found.expected_mm)[known].all() and (found.expected_mm < found.high_mm)[known].all()
        assert (found.low_mm > 0)[known].all() and found.expected_mm.dtype == torch.float32


def test_the_error_of_an_image_with_itself_is_small(pair, in_place):
    same = estimated((pair[1], pair[1]), shift(GRID, 0.0, 0.0, 0.0))
    assert median(same) <= 1.05 * median(in_place)


def test_pictures(pair):
    images = aligned(GRID_2D)
    found = estimated(images, shift(GRID_2D, 0.0, 0.0), GRID_2D)
    displaced = estimated(images, shift(GRID_2D, 6.0, 0.0), GRID_2D)
    assert found.determined.double().mean() > 0.9 and median(displaced) > median(found)


def test_the_order_of_the_axes_does_not_matter(pair):
    """With flips and permuted axes, of anisotropic voxels, the map is the same in another order."""
    grid = grid_of((20, 26, 16), (3.0, 2.0, 4.0))
    images, forward = aligned(grid), shift(grid, 2.0, -1.0, 0.5)
    first = estimated(images, forward, grid)
    turned = [reorder(x.as_tensor() if hasattr(x, "as_tensor") else x, *ORDER) for x in (*images, forward)]
    other = estimate_error(turned[0], grid.reordered(*ORDER), turned[1], grid.reordered(*ORDER), turned[2])
    expected = reorder(first.channels(), *ORDER)
    torch.testing.assert_close(other.channels(), expected, rtol=5e-3, atol=1e-3, equal_nan=True)


def test_millimeters_scale_with_the_voxels(pair, in_place):
    large = Grid(GRID.shape, np.diag([4.0, 4.0, 4.0, 1.0]) @ GRID.affine)
    found = estimated(pair, shift(large, 0.0, 0.0, 0.0), large)
    torch.testing.assert_close(found.channels(), 4 * in_place.channels(), rtol=5e-3, atol=0, equal_nan=True)


def test_homogeneous_regions_are_not_determined(pair):
    fixed = pair[0].clone()
    fixed[:, :20] = fixed.mean()
    found = estimated((fixed, pair[1]), shift(GRID, 0.0, 0.0, 0.0))
    assert not found.determined[:4].any() and found.determined[26:].all()
    assert found.expected_mm[~found.determined].isnan().all() and found.high_mm[~found.determined].isnan().all()
    nothing = estimated((torch.zeros_like(fixed), pair[1]), shift(GRID, 0.0, 0.0, 0.0))
    assert not nothing.determined.any()


def test_outside_the_moving_image_and_the_masks_nothing_is_determined(pair):
    found = estimated(pair, shift(GRID, 24.0, 0.0, 0.0))
    assert not found.determined[21:].any() and found.determined[:12].all()
    mask = torch.ones(1, *GRID.shape)
    mask[:, 16:] = 0
    for name in ("fixed_weight", "moving_weight"):
        masked = estimated(pair, shift(GRID, 0.0, 0.0, 0.0), **{name: mask})
        assert not masked.determined[17:].any() and masked.determined[:12].all()


def test_values_at_points(in_place):
    index = np.array([[3.0, 5.0, 7.0], [20.0, 9.0, 11.0]])
    points = index @ GRID.affine[:3, :3].T + GRID.affine[:3, 3]
    found = in_place.at(points)
    assert found.determined.all()
    for values, whole in zip(found[:3], in_place.channels(), strict=True):
        torch.testing.assert_close(values, whole[tuple(index.astype(int).T)])
    outside = in_place.at(torch.from_numpy(points) + 500)
    assert not outside.determined.any() and outside.expected_mm.isnan().all()
    with pytest.raises(ValueError, match="must be"):
        in_place.at(points[:, :2])


def test_a_point_beside_undetermined_voxels_has_the_value_of_the_others():
    grid = grid_of((4, 4, 4), (1.0, 1.0, 1.0))
    values = torch.full((3, *grid.shape), 2.0)
    values[:, 2:] = torch.nan
    found = ErrorMap.of_channels(values, grid)
    near = grid.affine[:3, :3] @ np.array([1.4, 1.0, 1.0]) + grid.affine[:3, 3]
    far = grid.affine[:3, :3] @ np.array([1.6, 1.0, 1.0]) + grid.affine[:3, 3]
    at = found.at(np.stack((near, far)))
    assert at.determined.tolist() == [True, False] and float(at.expected_mm[0]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="error map"):
        ErrorMap.of_channels(values[:2], grid)


def test_summary():
    grid = grid_of((4, 4, 4), (1.0, 1.0, 1.0))
    values = torch.full((3, *grid.shape), 2.0)
    values[:, 1:] = torch.nan
    assert ErrorMap.of_channels(values, grid).summary() == {"median": 2.0, "p95": 2.0, "determined_percent": 25.0}
    values[:] = torch.nan
    assert ErrorMap.of_channels(values, grid).summary() == {"median": None, "p95": None, "determined_percent": 0.0}


def test_a_local_fit_finds_a_known_displacement():
    """A displacement of half a millimeter along the second axis between two contrasts."""
    grid = grid_of((24, 24, 24), (2.0, 2.0, 2.0))
    points = grid.points()
    source = torch.from_numpy(anatomy(points)).float()
    moved = torch.from_numpy(anatomy(points + np.array([0.0, 0.5, 0.0]))).float()
    lattice = grid.resampled([8.0] * 3)
    fit = local_shift(1 - moved.square(), source, torch.ones(grid.shape), grid, lattice, 6.0)
    inner = (slice(None), slice(1, -1), slice(1, -1), slice(1, -1))
    axes = torch.from_numpy(grid.affine[:3, :3] / grid.spacing).float()
    world = torch.tensordot(axes, fit.shift, dims=1)[inner].flatten(1).median(1).values
    torch.testing.assert_close(world, torch.tensor([0.0, 0.5, 0.0]), atol=0.15, rtol=0)
    assert (fit.unexplained >= 0).all() and (fit.unexplained <= 1.001).all()


def test_interpolation_between_grids_with_one_center():
    coarse = GRID.resampled([5.0] * 3)
    for axis, matrix in enumerate(_interpolation(coarse, GRID, torch.zeros(1, dtype=torch.float64))):
        torch.testing.assert_close(matrix.sum(1), torch.ones(GRID.shape[axis], dtype=torch.float64))
        nodes = 5.0 * (torch.arange(coarse.shape[axis]) - (coarse.shape[axis] - 1) / 2).double()
        voxels = 2.0 * (torch.arange(GRID.shape[axis]) - (GRID.shape[axis] - 1) / 2).double()
        torch.testing.assert_close(matrix @ nodes, voxels.clamp(nodes[0], nodes[-1]))


def test_the_model_is_monotone_and_belongs_to_the_features():
    model = ErrorModel.calibrated()
    found = model.errors(torch.linspace(-6, 6, 200))
    assert (found.diff(dim=1) >= 0).all() and (found[1] < found[0]).all() and (found[0] < found[2]).all()
    content = json.loads(files("monai_locor.quality").joinpath(MODEL_FILE).read_text())
    assert content["provenance"]["transforms"] > 0
    with pytest.raises(ValueError, match="calibrate it again"):
        ErrorModel.of({**content, "features": FEATURES[1:]})
