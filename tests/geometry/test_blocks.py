# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Resampling block by block is the same as in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid, SpatialTransform, blocks, warp_in_blocks

TURN = np.array([[-0.3, 0.7, 9.0], [-0.7, -0.3, 30.0], [0, 0, 1]])
OWN, TARGET = Grid((41, 33), TURN), Grid((37, 45), np.diag([-0.6, -0.9, 1.0]))
CASES = [(m, d) for m in ("nearest", "bilinear", "lanczos", "bspline") for d in (torch.uint8, torch.uint16, torch.float32)]


@pytest.fixture(scope="module")
def transform() -> SpatialTransform:
    """A deformation on a coarser grid than the images, followed by a rotation."""
    coarse = Grid((14, 18), np.diag([-1.6, -2.3, 1.0]))
    return SpatialTransform.of_field(
        random_diffeomorphism(coarse, 1, rotation_deg=40, translation_mm=4, elastic_rms_mm=2), coarse
    )


def image(dtype: torch.dtype, channels: int = 3) -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 250, (channels, *OWN.shape))
    return torch.from_numpy(values.astype(str(dtype).removeprefix("torch.")))


@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_same_as_in_one_piece(transform, mode, dtype, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 100)
    values = image(dtype)
    found = warp_in_blocks(transform, values, OWN, TARGET, mode)
    expected = transform.warp(values.float(), OWN, TARGET, mode).as_tensor()
    if mode in ("bilinear", "nearest"):  # these subtract the smallest value, which is 0
        assert float(values.float().min()) == 0
    assert found.dtype == dtype and found.shape == expected.shape
    clipped = expected if dtype == torch.float32 else expected.clamp(0, torch.iinfo(dtype).max)
    assert float((found.float() - clipped).abs().max()) <= (1e-2 if dtype == torch.float32 else 0.51)


def test_outside_is_filled(transform, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 64)
    values = torch.full((2, *OWN.shape), 7, dtype=torch.uint8)
    far = Grid((30, 20), np.array([[-0.5, 0, 900.0], [0, -0.5, 0], [0, 0, 1]]))
    found = warp_in_blocks(transform, values, OWN, far, fill=[200.0, 40.0])
    assert bool((found[0] == 200).all()) and bool((found[1] == 40).all())
    constant = warp_in_blocks(transform, values, OWN, TARGET, fill=[7.0, 7.0])
    assert bool((constant == 7).all())  # also across the border of the image


def test_layout_is_that_of_picture_files(transform):
    found = warp_in_blocks(transform, image(torch.uint8), OWN, TARGET)
    assert found.permute(2, 1, 0).is_contiguous()


def test_in_three_dimensions(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 200)
    grid = Grid((9, 8, 11), np.diag([1.0, 2, -1, 1]))
    field = random_diffeomorphism(grid, 0, rotation_deg=20, translation_mm=2, elastic_rms_mm=1)
    transform, values = SpatialTransform.of_field(field, grid), torch.rand(1, *grid.shape)
    values -= values.min()
    expected = transform.warp(values, grid, grid).as_tensor()
    torch.testing.assert_close(warp_in_blocks(transform, values, grid, grid), expected, atol=1e-5, rtol=0)
