# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Padding beyond a plane does not count; background does."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch

from monai_locor import check
from monai_locor.geometry import Grid
from monai_locor.registration.padding import padded_voxels, without_padding
from monai_locor.registration.pair import load_pair

from ..phantoms import CUBE, ORDERS, PLANE, anatomy, grid_of, image, pair, turned
from .short_runs import NOTHING, SHORT, errors, run

FINE = grid_of((44, 40, 36), (2.0, 2.0, 2.5))
FLAT = grid_of((80, 72), (1.0, 1.2))


def rough_body(grid: Grid, fill: float = 0.0, radius: float = 36.0) -> torch.Tensor:
    """An ellipsoid with a rough surface and texture inside, ``fill`` around it, ``(*grid)``."""
    points = grid.points() - grid.center
    texture = anatomy(points)
    axes = radius * np.array([1.0, 1.1, 0.95])[: grid.dims]
    inside = np.linalg.norm(points / axes, axis=-1) + 0.05 * texture < 1
    return torch.from_numpy(np.where(inside, 2 + texture, fill)).float()


def heights(grid: Grid, normal) -> torch.Tensor:
    """Heights of the voxels over the center of the grid along a direction, ``(*grid)``, mm."""
    unit = np.asarray(normal, dtype=float)[: grid.dims]
    return torch.from_numpy((grid.points() - grid.center) @ (unit / np.linalg.norm(unit)))


def cut(values: torch.Tensor, grid: Grid, normal, above: float = np.inf, below: float = -np.inf, fill: float = 0.0):
    """The values between two planes, and the fill elsewhere; and where that is."""
    height = heights(grid, normal)
    padding = (height > above) | (height < below)
    return torch.where(padding, fill, values), padding


def excess(found: torch.Tensor, padding: torch.Tensor, height: torch.Tensor, limit: float) -> float:
    """How far from a plane voxels are that are found without being padding, or the reverse, mm."""
    wrong = found ^ padding
    return float((height[wrong] - limit).abs().max()) if bool(wrong.any()) else 0.0


class TestFinds:
    @pytest.mark.parametrize("grid", [FINE, turned(0.3, (2.0, -2.0, 2.5), (44, 40, 36)), FLAT], ids=["3-D", "oblique", "2-D"])
    @pytest.mark.parametrize("normal", [(1, 0, 0), (0, -1, 0), (0.7, 0.5, 0.4), (-0.2, 0.9, -0.5)])
    @pytest.mark.parametrize("fill", [0.0, -1000.0, 5.0])
    def test_what_lies_beyond_a_plane(self, grid, normal, fill):
        values, padding = cut(rough_body(grid, fill), grid, normal, above=4.0, fill=fill)
        found = padded_voxels(image(values, grid), grid)
        assert found is not None and found.shape == (1, *grid.shape) and found.dtype == torch.bool
        assert excess(found[0], padding, heights(grid, normal), 4.0) < 2 * np.linalg.norm(grid.spacing)

    def test_a_slab_between_two_planes(self):
        normal = (0.1, 0.3, 0.9)
        values, padding = cut(rough_body(FINE), FINE, normal, above=10.0, below=-14.0)
        found = padded_voxels(image(values, FINE), FINE)[0]
        height = heights(FINE, normal)
        assert bool(found[height > 16].all()) and bool(found[height < -20].all())
        assert not bool(found[(height < 4) & (height > -8)].any()) and bool(padding.any())

    def test_a_large_image_in_blocks(self):
        grid = grid_of((200, 180, 20), (0.4, 0.45, 4.0))
        values, padding = cut(rough_body(grid), grid, (0.8, 0.6, 0), above=6.0)
        found = padded_voxels(image(values, grid), grid)[0]
        assert excess(found, padding, heights(grid, (0.8, 0.6, 0)), 6.0) < 2.0

    @pytest.mark.parametrize("order", [ORDERS[k] for k in (0, 7, 21, 34, 47)])
    def test_the_order_of_the_axes_does_not_matter(self, order):
        axes, flips = order
        values, _ = cut(rough_body(FINE), FINE, (0.6, 0.2, 0.8), above=5.0)
        expected = padded_voxels(image(values, FINE), FINE)[0]
        grid = FINE.reordered(axes, flips)
        dims = [k for k, flip in enumerate(flips) if flip]
        found = padded_voxels(image(values.permute(axes).flip(dims), grid), grid)[0]
        assert float((found ^ expected.permute(axes).flip(dims)).float().mean()) < 0.01

    def test_every_channel(self):
        """Where one channel shows something, the image counts."""
        values, _ = cut(rough_body(FINE), FINE, (1, 0, 0), above=4.0)
        other, _ = cut(rough_body(FINE), FINE, (0, 1, 0), above=4.0)
        alone = [padded_voxels(image(x, FINE), FINE) for x in (values, other)]
        both = padded_voxels(image(torch.stack([values, other]), FINE), FINE)
        assert torch.equal(both, alone[0] & alone[1])
        assert padded_voxels(image(torch.stack([values, rough_body(FINE)]), FINE), FINE) is None


class TestLeaves:
    @pytest.mark.parametrize("grid", [FINE, turned(0.3, (2.0, -2.0, 2.5), (44, 40, 36)), FLAT], ids=["3-D", "oblique", "2-D"])
    def test_background_around_a_body(self, grid):
        assert padded_voxels(image(rough_body(grid), grid), grid) is None

    @pytest.mark.parametrize(("radius", "spacing"), [(40.0, 0.75), (40.0, 1.5), (90.0, 0.75), (90.0, 1.5), (200.0, 1.5)])
    def test_a_part_of_a_smooth_surface(self, radius, spacing):
        """A box at the surface of a large ball without roughness, which is nearly flat there."""
        grid = grid_of((44, 40, 36), (spacing,) * 3)
        points = grid.points() + np.array([0.3, 0.5, 1.0]) / np.linalg.norm([0.3, 0.5, 1.0]) * radius
        values = np.where(np.linalg.norm(points, axis=-1) < radius, 2 + anatomy(grid.points()), 0)
        assert padded_voxels(image(values, grid), grid) is None

    def test_noise_in_air(self):
        values, _ = cut(rough_body(FINE), FINE, (1, 0, 0), above=4.0)
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
        assert padded_voxels(image(values + 0.01 * noise, FINE), FINE) is None

    @pytest.mark.parametrize("shape", [(1, 12, 12), (2, 3, 2), (12, 1), (1, 1)])
    def test_tiny_and_constant_images(self, shape):
        grid = grid_of(shape, (1.0,) * len(shape))
        ramp = torch.arange(float(np.prod(shape))).reshape(shape)
        for values in (torch.zeros(shape), ramp, (ramp > 2).float()):
            padded_voxels(image(values, grid), grid)  # no error
        assert padded_voxels(image(torch.zeros(shape), grid), grid) is None

    @pytest.mark.parametrize("shape", [(12, 10, 8), (14, 12)])
    def test_any_content(self, shape):
        """Random regions, also at the ends of the grid: no error."""
        grid = grid_of(shape, (1.0, 2.0, 1.5)[: len(shape)])
        generator = torch.Generator().manual_seed(0)
        for share in (0.02, 0.3, 0.6, 0.9):
            for _ in range(20):
                values = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < share)
                values[tuple(slice(0, int(k)) for k in torch.randint(1, 8, (len(shape),), generator=generator))] = 0
                found = padded_voxels(image(values, grid), grid)
                assert found is None or found.shape == (1, *shape)

    def test_little_of_it(self):
        grid = grid_of((80, 20, 20), (1.0, 1.0, 1.0))
        values = 2 + torch.from_numpy(anatomy(grid.points())).float()
        values[-3:] = 0
        assert padded_voxels(image(values, grid), grid) is None

    def test_invalid_voxels_stay_invalid(self):
        values, padding = cut(rough_body(FINE), FINE, (1, 0, 0), above=4.0)
        valid = torch.ones(1, *FINE.shape, dtype=torch.bool)
        valid[:, :3] = False
        counts = without_padding(image(values, FINE), valid, FINE)
        assert not bool(counts[:, :3].any()) and not bool((counts & padding).any()) and bool(counts.any())
        assert without_padding(image(rough_body(FINE), FINE), valid, FINE) is valid


def half(values: torch.Tensor, grid: Grid = CUBE) -> torch.Tensor:
    """An image whose second half along the second axis was filled with its minimum."""
    out = values.clone()
    out[:, :, grid.shape[1] // 2 :] = out.min()
    return out


class TestRegistration:
    @pytest.mark.parametrize("role", ["fixed", "moving"])
    def test_padding_does_not_count_and_is_told(self, role, caplog):
        images = dict(zip(("fixed", "moving"), pair()[:2], strict=True))
        images[role] = half(images[role])
        with caplog.at_level(logging.WARNING, logger="monai_locor"):
            found = load_pair(**images, config=NOTHING)
        weights = {"fixed": found.fixed.weight, "moving": found.moving.weight}
        assert weights.pop(role).mean() < 0.55 and list(weights.values()) == [None]
        assert f"{role} image: a part of its grid is padding" in caplog.text
        mask = load_pair(**images, config=NOTHING, **{f"{role}_mask": image(np.ones(CUBE.shape), CUBE)})
        assert getattr(mask, role).weight.min() == 1
        counted = load_pair(**images, config=dataclasses.replace(NOTHING, padding="never"))
        assert counted.fixed.weight is None and counted.moving.weight is None

    def test_it_is_not_judged_either(self):
        fixed, moving, _ = pair()
        result = run(fixed, half(moving), NOTHING)
        again = check(fixed, half(moving), np.eye(4))
        for found in (result, again):
            assert found.verdict.measures["valid_voxels"] < 0.55 * CUBE.points()[..., 0].size
        counted = run(fixed, half(moving), dataclasses.replace(NOTHING, padding="never"))
        assert counted.verdict.measures["valid_voxels"] > 0.9 * CUBE.points()[..., 0].size

    @pytest.mark.slow
    @pytest.mark.parametrize("grid", [CUBE, PLANE], ids=["3-D", "2-D"])
    def test_half_an_image_is_not_stretched(self, grid):
        fixed, moving, truth = pair(grid, grid)
        after = {}
        for padding in ("auto", "never"):
            config = dataclasses.replace(SHORT, padding=padding, region="image")
            before, after[padding] = errors(run(fixed, half(moving, grid), config), truth)
        assert after["auto"] < min(before / 3, 0.85 * after["never"]), (before, after)
