# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Interpolation of images that have no value in some voxels, whole and block by block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, SpatialTransform, blocks, warp_in_blocks, warped

GRID = Grid((11, 9, 8), np.diag([1.5, -2.0, 1.0, 1.0]))
STILL = torch.zeros(3, *GRID.shape)
MODES = ("bilinear", "nearest", "bspline", "lanczos")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def image(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(2, *GRID.shape, generator=torch.Generator().manual_seed(0)) * 50 - 20).to(dtype)


def holes() -> torch.Tensor:
    """Single voxels, a block at the border, and a whole plane."""
    found = torch.zeros(2, *GRID.shape, dtype=torch.bool)
    found[0, 4, 4, 4] = found[1, 2, 3, 6] = True
    found[:, :3, :2, :2] = True
    found[1, 8] = True
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("empty", [float("nan"), float("inf"), -float("inf")])
def test_only_voxels_without_a_value_have_none_afterwards(mode, dtype, empty):
    values, gone = image(dtype), holes()
    values[gone] = empty
    found = warped(values, GRID, STILL, GRID, mode).as_tensor()
    assert found.dtype == dtype and torch.equal(~found.isfinite(), gone)
    atol = {torch.float16: 2e-2, torch.bfloat16: 2e-1}.get(dtype, 1e-4)
    torch.testing.assert_close(found[~gone], image(dtype)[~gone], rtol=0, atol=atol)


def test_voxels_without_a_value_have_no_weight():
    values = torch.full((1, 6, 5), 7.0)
    values[0, :3] = float("nan")
    grid = Grid((6, 5), np.eye(3))
    for shift, first in ((0.0, 3), (0.4, 3), (0.6, 2), (-0.4, 3), (-0.6, 4)):
        move = torch.zeros(2, 6, 5)
        move[0] = shift
        found = warped(values, grid, move, grid).as_tensor()[0, :, 2]
        assert found[1:].isnan().tolist() == [k < first for k in range(1, 6)]  # the first one may lie outside the image
        inner = found[first:5]  # nor may the last one
        torch.testing.assert_close(inner, torch.full_like(inner, 7.0))


@pytest.mark.parametrize("mode", MODES)
def test_an_image_without_any_value(mode):
    values = torch.full((1, *GRID.shape), float("nan"))
    far = Grid((4, 4, 4), np.array([[1.0, 0, 0, 500], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    transform = SpatialTransform.of_affine(np.eye(4))
    assert bool(transform.warp(values, GRID, GRID, mode).isnan().all())
    assert mode == "nearest" or bool((transform.warp(values, GRID, far, mode) == 0).all())


@pytest.mark.parametrize("mode", MODES)
def test_blocks_are_like_the_whole(mode, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 60)
    values = image()
    values[holes()] = float("nan")
    values[0, 5, 5, 5] = -20  # the smallest value of both channels, which lies outside of them
    matrix = np.eye(4)
    matrix[:3, 3] = 0.4, -0.7, 0.3
    transform = SpatialTransform.of_affine(matrix)
    whole = transform.warp(values, GRID, GRID, mode).as_tensor()
    parts = warp_in_blocks(transform, values, GRID, GRID, mode, fill=[-20.0, -20.0])
    if mode == "nearest":  # zero outside when whole
        whole = torch.where(whole == 0, -20.0, whole)
    torch.testing.assert_close(parts, whole, equal_nan=True, rtol=0, atol=1e-2 if mode == "bspline" else 1e-4)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.float16, torch.float32])
def test_blocks_keep_every_type(dtype):
    values = (image() > 0).to(dtype)
    found = warp_in_blocks(SpatialTransform.of_affine(np.eye(4)), values, GRID, GRID)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), values.double(), rtol=0, atol=1e-5)
