# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Prepared images: robust intensities, masks that count, and one axis order for every way to store the voxels."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.ndimage import gaussian_filter

from monai_locor.geometry import Grid, reorder
from monai_locor.registration.start.prepare import prepare

GRID = Grid((14, 11, 12), np.array([[-1.4, 0.3, 0.2, 10], [0.2, 0.2, 2.5, -5], [0.1, -1.9, 0.3, 3], [0, 0, 0, 1.0]]))
CPU = torch.device("cpu")
QUANTILE = 0.001


def smooth(seed: int = 0, shape: tuple[int, ...] = GRID.shape) -> torch.Tensor:
    """An image of about -100 to 100, ``(1, *shape)``."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return torch.from_numpy(100 * noise / np.abs(noise).max()).float()[None]


def prepared(image: torch.Tensor, weight: torch.Tensor | None = None, grid: Grid = GRID) -> torch.Tensor:
    """The prepared image in the order in which it came."""
    out = prepare(image, weight, QUANTILE, CPU, grid)
    return out.to_stored(out.image)


class TestIntensities:
    def test_about_zero_to_one(self, device):
        out = prepare(smooth(), None, QUANTILE, device, GRID)
        assert out.image.dtype == torch.float32 and out.image.device.type == device.type and out.weight is None
        assert -0.3 < float(out.image.min()) < 0.05 and 0.95 < float(out.image.max()) < 1.3
        assert np.corrcoef(prepared(smooth()).flatten(), smooth().flatten())[0, 1] > 0.9999

    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    @pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
    def test_gain_and_offset_do_not_matter(self, scale, offset):
        torch.testing.assert_close(prepared((smooth() + offset) * scale), prepared(smooth()), atol=1e-4, rtol=0)

    def test_a_negative_is_the_negative(self):
        torch.testing.assert_close(prepared(-smooth()), 1 - prepared(smooth()), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("value", [1e4, -1e4])
    @pytest.mark.parametrize("where", [(0, 0, 0, 0), (0, 17, 15, 16)])
    def test_one_hot_voxel_changes_nothing_else(self, value, where):
        grid = Grid((32, 33, 34), np.eye(4))
        hot = smooth(0, grid.shape)
        hot[where] = 100 * value
        expected, out = prepared(smooth(0, grid.shape), grid=grid), prepared(hot, grid=grid)
        assert float(out[where].abs()) < 2  # and is not much of an edge itself
        out[where] = expected[where]
        assert float((out - expected).abs().max()) < 0.01

    def test_a_sparse_image_keeps_its_contrast(self):
        sparse = torch.zeros(1, 20, 20, 20)
        sparse[0, 10, 10, 10] = 5
        out = prepared(sparse, grid=Grid((20, 20, 20), np.eye(4)))
        assert float(out[0, 10, 10, 10] - out[0, 0, 0, 0]) > 0.5

    def test_the_input_is_left_alone(self):
        image, weight = smooth(), torch.rand(1, *GRID.shape)
        copies = image.clone(), weight.clone()
        prepare(image, weight, QUANTILE, CPU, GRID)
        assert torch.equal(image, copies[0]) and torch.equal(weight, copies[1])


class TestMasks:
    def test_intensities_outside_do_not_count(self):
        weight = torch.zeros(1, *GRID.shape)
        weight[:, 3:11, 2:9, 2:10] = 1
        garbage = torch.where(weight > 0, smooth(), 1e6 * smooth(1))
        inside = weight > 0
        torch.testing.assert_close(prepared(garbage, weight)[inside], prepared(smooth(), weight)[inside])
        assert float(prepared(garbage, weight)[inside].max()) > 0.9

    def test_what_does_not_count_leaves_no_trace(self):
        weight = torch.zeros(1, *GRID.shape)
        weight[:, 3:11, 2:9, 2:10] = 1
        garbage = torch.where(weight > 0, smooth(), 1e6 * smooth(1))
        assert torch.equal(prepared(garbage, weight), prepared(smooth(), weight))

    def test_the_image_goes_on_smoothly_where_it_does_not_count(self):
        grid = Grid((40, 41, 42), np.eye(4))
        weight = torch.zeros(1, *grid.shape)
        weight[:, 12:28, 10:30, 15:35] = 0.3
        world = grid.points()
        values = torch.from_numpy(np.sin(0.2 * world[..., 0]) + np.cos(0.15 * world[..., 1])).float()[None]
        out = prepared(values, weight, grid)
        inside = (weight > 0)[0, 12:28, 10:30, 15:35]
        within = out[0, 12:28, 10:30, 15:35][inside]
        assert float(within.min()) - 1e-5 <= float(out.min()) and float(out.max()) <= float(within.max()) + 1e-5
        across = [
            (out[0].narrow(axis, at, 1) - out[0].narrow(axis, at - 1, 1)).abs() for axis, at in ((0, 12), (1, 10), (2, 15))
        ]
        box = [slice(12, 28), slice(10, 30), slice(15, 35)]
        for axis, step in enumerate(across):
            face = step[tuple(slice(None) if a == axis else s for a, s in enumerate(box))]
            assert float(face.max()) < 0.25, axis  # of a range of one
        far = out[0, :2, :2, :2]
        torch.testing.assert_close(far, torch.full_like(far, float(within.mean())), atol=1e-4, rtol=0)

    def test_weights_stay_between_zero_and_one(self):
        weight = torch.linspace(-1, 3, smooth().numel()).reshape(smooth().shape)
        out = prepare(smooth(), weight, QUANTILE, CPU, GRID)
        torch.testing.assert_close(out.to_stored(out.weight), weight.clamp(0, 1))


class TestOrder:
    @pytest.mark.parametrize("axes", list(permutations(range(3))))
    def test_every_way_to_store_the_voxels_gives_the_same_bytes(self, axes):
        weight = (smooth(1) > 0).float()
        expected = prepare(smooth(), weight, QUANTILE, CPU, GRID)
        for flips in product((False, True), repeat=3):
            image = reorder(smooth(), axes, flips)
            out = prepare(image, reorder(weight, axes, flips), QUANTILE, CPU, GRID.reordered(axes, flips))
            assert torch.equal(out.image, expected.image) and torch.equal(out.weight, expected.weight)
            np.testing.assert_allclose(out.grid.affine, expected.grid.affine, atol=1e-9)
            assert out.grid.shape == expected.grid.shape and out.stored.shape == GRID.reordered(axes, flips).shape
            torch.testing.assert_close(out.to_stored(out.image), reorder(expected.to_stored(expected.image), axes, flips))

    def test_the_affine_of_a_meta_tensor_is_used(self):
        image = MetaTensor(smooth(), affine=torch.from_numpy(GRID.affine.copy()))
        out, expected = prepare(image, None, QUANTILE, CPU), prepare(smooth(), None, QUANTILE, CPU, GRID)
        assert type(out.image) is torch.Tensor and torch.equal(out.image, expected.image)
        np.testing.assert_array_equal(out.grid.affine, expected.grid.affine)

    def test_flat_images(self):
        grid = Grid((14, 11), np.array([[0.3, -1.5, 2], [-1.1, 0.2, 4], [0, 0, 1.0]]))
        out = prepare(smooth(0, grid.shape), None, QUANTILE, CPU, grid)
        assert out.image.shape == (1, 11, 14) and (np.diag(out.grid.affine) > 0).all()
