# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Overlap of label maps, against loops over voxels and pairs of surface points."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_locor.geometry import Grid
from monai_locor.metrics import common_labels, dice_per_label, hausdorff_per_label, mean_over_labels

SHAPES = [(9, 8), (7, 6, 5)]
SPACING = (1.5, 2.0, 0.7)


def labels(shape: tuple[int, ...], seed: int, numbers: tuple[int, ...] = (0, 1, 4, 300)) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(len(numbers), size=(1, *shape))
    return torch.from_numpy(np.array(numbers)[drawn])


def blocks(shape: tuple[int, ...], corner: int) -> torch.Tensor:
    """Two blocks beside each other."""
    out = torch.zeros(1, *shape, dtype=torch.int16)
    out[(0, slice(corner, corner + 3), *[slice(1, 4)] * (len(shape) - 1))] = 2
    out[(0, slice(corner + 3, corner + 5), *[slice(2, 5)] * (len(shape) - 1))] = 5
    return out


def grid(shape: tuple[int, ...]) -> Grid:
    """Oblique: only the voxel size may matter."""
    dims = len(shape)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(dims, dims)))[0]
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = turn * np.array(SPACING[:dims])
    return Grid(shape, affine)


def slow_dice(first: torch.Tensor, second: torch.Tensor, label: int) -> float:
    voxels = [{v for v in product(*map(range, i.shape[1:])) if int(i[0][v]) == label} for i in (first, second)]
    return 2 * len(voxels[0] & voxels[1]) / (len(voxels[0]) + len(voxels[1]))


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with a neighbor outside of it, face to face; all in mm."""
    padded = np.pad(mask, 1)
    points = []
    for voxel in np.argwhere(mask):
        steps = [sign * row for row in np.eye(mask.ndim, dtype=int) for sign in (-1, 1)]
        if not all(padded[tuple(voxel + 1 + step)] for step in steps):
            points.append(voxel * np.array(SPACING[: mask.ndim]))
    return np.array(points)


def slow_hausdorff(first: torch.Tensor, second: torch.Tensor, label: int, percentile: float) -> float:
    points = [surface((i[0] == label).numpy()) for i in (first, second)]
    distances = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return max(np.percentile(distances.min(axis), percentile) for axis in (0, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.int16])
def test_dice_equals_a_slow_one(shape, dtype, device):
    fixed, moved = labels(shape, 0), labels(shape, 1, (0, 1, 4, 7))
    found = dice_per_label(fixed.to(device, dtype), MetaTensor(moved.to(device, dtype)))
    assert list(found) == [1, 4, 300] and found[300] == 0
    assert found == pytest.approx({label: slow_dice(fixed, moved, label) for label in found})
    assert dice_per_label(fixed.to(dtype), moved, [4, 7, 0]) == pytest.approx(
        {label: slow_dice(fixed, moved, label) for label in (0, 4)}
    )


@pytest.mark.parametrize("shape", [(12, 9), (10, 7, 6)])
@pytest.mark.parametrize("percentile", [50, 95, 100])
def test_hausdorff_equals_a_slow_one(shape, percentile):
    pytest.importorskip("scipy")
    fixed, moved = blocks(shape, 1), blocks(shape, 3)
    moved[moved == 5] = 2
    moved[(0, -1, *[5] * (len(shape) - 1))] = 5
    found = hausdorff_per_label(fixed, moved, grid(shape), percentile)
    assert list(found) == [2, 5] and min(found.values()) > 0.5
    assert found == pytest.approx({label: slow_hausdorff(fixed, moved, label, percentile) for label in found}, rel=1e-5)


def test_distances_scale_with_the_voxel_and_do_not_care_which_is_first():
    pytest.importorskip("scipy")
    first, second, coarse = blocks((10, 7, 6), 1), blocks((10, 7, 6), 4), Grid((10, 7, 6), np.diag([2.0, 2, 2, 1]))
    found = hausdorff_per_label(first, second, coarse)
    assert found == {label: 2 * mm for label, mm in hausdorff_per_label(first, second, Grid((10, 7, 6), np.eye(4))).items()}
    assert found == hausdorff_per_label(second, first, coarse)
    assert hausdorff_per_label(first, first, coarse) == {2: 0, 5: 0}
    assert dice_per_label(first, first) == {2: 1, 5: 1}


def test_labels_that_are_missing():
    pytest.importorskip("scipy")
    first, second = blocks((10, 7, 6), 1), blocks((10, 7, 6), 1)
    second[second == 5] = 9
    unit = Grid((10, 7, 6), np.eye(4))
    assert dice_per_label(first, second) == {2: 1, 5: 0} and dice_per_label(first, second, [9]) == {}
    found = hausdorff_per_label(first, second, unit, labels=[9, 5, 2])
    assert list(found) == [2, 5] and found[2] == 0 and math.isnan(found[5])
    assert mean_over_labels(found) == 0 and math.isnan(mean_over_labels({})) and mean_over_labels({1: 2, 2: 4}) == 3


def test_masks_are_label_maps():
    mask = torch.tensor([[True, False, True, True]])
    assert dice_per_label(mask, mask.flip(1)) == {1: slow_dice(mask, mask.flip(1), 1)}


def test_common_labels_are_large_and_in_both():
    fixed, moving = torch.zeros(1, 20, 20), torch.zeros(1, 5, 5, 5, dtype=torch.int16)
    fixed[0, :5, :10], fixed[0, 5:7, :10], fixed[0, 7:, :10] = 1, 2, 3  # 50, 20 and 130 voxels
    moving[0, 0], moving[0, 1] = 1, 2
    assert common_labels(fixed, moving) == [1]
    assert common_labels(fixed, moving, least=20) == [1, 2]
    assert common_labels(fixed, torch.zeros(1, 4)) == []


def test_refuses_maps_that_do_not_match():
    pytest.importorskip("scipy")
    with pytest.raises(ValueError, match="on one grid"):
        dice_per_label(torch.zeros(1, 3, 4), torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="on one grid"):
        dice_per_label(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="do not match the grid"):
        hausdorff_per_label(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), Grid((4, 3), np.eye(3)))
