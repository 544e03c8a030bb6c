# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Splines, windowed sinc and smooth labels between voxels, against SciPy and against what they mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, SpatialTransform, warp
from monai_locor.geometry.interpolation import sample_labels, sample_smooth, spline_coefficients

SHAPES = [(9, 8, 7), (12, 11), (9, 8, 1), (2, 3, 4)]


def positions(shape, count: int = 200, margin: float = 0.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = torch.tensor(shape, dtype=torch.float64)[:, None]
    return torch.rand(len(shape), count, generator=generator, dtype=torch.float64) * (size - 1 + 2 * margin) - margin


def values(shape, channels: int = 2) -> torch.Tensor:
    return torch.rand(channels, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_spline_is_that_of_scipy(shape):
    ndimage = pytest.importorskip("scipy.ndimage")
    image, points = values(shape), positions(shape)
    found = sample_smooth(spline_coefficients(image), points, "bspline")
    for one, expected in zip(found, image.numpy(), strict=True):
        wanted = ndimage.map_coordinates(expected, points.numpy(), order=3, mode="mirror")
        np.testing.assert_allclose(one.numpy(), wanted, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_windowed_sinc_is_a_sum_over_six_voxels(shape):
    image, points = values(shape, 1), positions(shape, 20)
    found = sample_smooth(image, points, "lanczos")[0]

    def weights(x: float) -> dict[int, float]:
        taps = {i: np.sinc(x - i) * np.sinc((x - i) / 3) for i in range(math.floor(x) - 2, math.floor(x) + 4)}
        return {i: w / sum(taps.values()) for i, w in taps.items()}

    for point, value in zip(points.T.tolist(), found.tolist(), strict=True):
        mean = image[0].numpy()
        for axis in reversed(range(len(shape))):
            n = shape[axis]
            mirrored = [*range(n), *range(n - 2, 0, -1)] if n > 1 else [0]
            parts = [w * mean.take(mirrored[i % len(mirrored)], axis) for i, w in weights(point[axis]).items()]
            mean = np.sum(parts, 0)
        assert value == pytest.approx(float(mean), abs=1e-10)


@pytest.mark.parametrize("mode", ["bspline", "lanczos", "smooth", "nearest", "bilinear"])
class TestEveryMode:
    def test_voxels_are_kept_constants_too_and_outside_is_zero(self, mode):
        grid = Grid((9, 8, 7), np.diag([2.0, -3.0, 1.5, 1.0]))
        image = values(grid.shape).float()
        torch.testing.assert_close(warp(image, grid, None, grid, mode), image, atol=1e-5, rtol=0)
        shift = torch.full((3, *grid.shape), 0.7)
        ones = warp(torch.ones(1, *grid.shape), grid, shift, grid, mode)[:, 1:-1, 1:-1, 1:-1]
        torch.testing.assert_close(ones, torch.ones_like(ones))
        assert not warp(image, grid, shift + 100, grid, mode).any()

    def test_any_affine_gives_the_same_as_the_axes_without_it(self, mode):
        """Oblique, flipped, sheared: what counts is the position in voxels."""
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0] @ (np.diag([1, 2, -3.0]) + 0.3)
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turn, (5, -7, 2)
        image, shape = values((9, 8, 7)).float(), (6, 5, 4)
        inner = np.eye(4)
        inner[:3, 3] = (1.3, 1.2, 1.1)
        plain = warp(image, Grid((9, 8, 7), np.eye(4)), None, Grid(shape, inner), mode)
        turned = warp(image, Grid((9, 8, 7), affine), None, Grid(shape, affine @ inner), mode)
        torch.testing.assert_close(turned, plain, atol=1e-5, rtol=0)

    def test_the_type_is_kept_and_nothing_wraps_round(self, mode):
        grid = Grid((8, 8), np.eye(3))
        image = torch.zeros(1, 8, 8, dtype=torch.uint8)
        image[:, 3:5] = 255
        moved = SpatialTransform.of_affine(np.array([[1, 0, 0.4], [0, 1, 0], [0, 0, 1.0]])).warp(image, grid, grid, mode)
        assert moved.dtype == torch.uint8 and int(moved[0, 3, 4]) > 200 and int(moved[0, 0, 4]) < 30


def test_an_unknown_mode_is_refused():
    grid = Grid((4, 4), np.eye(3))
    with pytest.raises(ValueError, match="mode must be one of bilinear, nearest, smooth, bspline, lanczos, got 'cubic'"):
        warp(torch.zeros(1, 4, 4), grid, None, grid, "cubic")


class TestLabels:
    @pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.uint16, torch.int64, torch.float32])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_they_are_the_argmax_of_interpolated_indicators(self, shape, dtype):
        labels = (values(shape, 1) * 5).long() * 7
        points = positions(shape, 300, margin=0)
        grid, known = Grid(shape, np.eye(len(shape) + 1)), labels.unique()
        corners = torch.nn.functional.one_hot(labels[0] // 7, int(labels.max()) // 7 + 1).movedim(-1, 0).double()
        from monai_locor.geometry import sample

        shares = sample(corners[None], points[None])[0]
        found = sample_labels(labels.to(dtype), points)
        assert found.dtype == dtype and set(found.long().unique().tolist()) <= set(known.tolist()) and grid.dims == len(shape)
        won = shares.gather(0, found.long() // 7)[0]
        torch.testing.assert_close(won, shares.max(0).values, atol=1e-5, rtol=0)

    def test_a_border_is_smoother_than_that_of_the_nearest_voxel(self):
        """The outline of a disc on a grid four times finer."""
        coarse, fine = Grid((24, 24), np.diag([4.0, 4, 1])), Grid((93, 93), np.eye(3))
        axes = np.meshgrid(np.arange(24) * 4, np.arange(24) * 4, indexing="ij")
        disc = torch.from_numpy((axes[0] - 46) ** 2 + (axes[1] - 46) ** 2 < 30**2)[None].long() * 300
        truth = np.hypot(*np.meshgrid(np.arange(93) - 46, np.arange(93) - 46, indexing="ij")) < 30
        wrong = {mode: int(((warp(disc, coarse, None, fine, mode)[0] == 300).numpy() != truth).sum()) for mode in
                 ("nearest", "smooth")}  # fmt: skip
        assert wrong["smooth"] < 0.9 * wrong["nearest"]

    def test_many_labels_take_no_more_memory(self):
        labels = torch.arange(20**3).reshape(1, 20, 20, 20)
        points = positions((20, 20, 20), 500)
        assert torch.isin(sample_labels(labels, points), labels).all()
