# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Levels: sampled in millimeters, smoothed inside the mask, edges as steep along thick voxels as along thin ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import minimum_filter

from monai_locor.geometry import Grid, apply_affine
from monai_locor.registration.pyramid import distance_ratios, level_grid, make_level
from monai_locor.registration.start.prepare import PreparedImage, prepare
from monai_locor.transforms import derivative_magnitude

from ..phantoms import turned

CPU = torch.device("cpu")


def grid_of(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Grid:
    """Oblique, with the axes nearest to those of the world."""
    return turned(0.15, spacing, shape)


ANISO = grid_of((30, 32, 11), (1.0, 1.0, 3.0))
ISO = grid_of((17, 16, 18), (2.0, 2.0, 2.0))


def image_of(grid: Grid, function, weight: torch.Tensor | None = None) -> PreparedImage:
    return prepare(torch.from_numpy(function(grid.points())).float()[None], weight, 0.001, CPU, grid)


def wave(world: np.ndarray) -> np.ndarray:
    return np.sin(world @ [0.15, 0.1, -0.12]) + np.cos(world @ [0.02, -0.2, 0.1])


class TestLevelGrid:
    @pytest.mark.parametrize(
        ("factor", "spacing"), [(1, (1, 1, 3)), (2, (2, 2, 3)), (3, (3, 3, 3)), (4, (29 / 7, 31 / 7, 30 / 7))]
    )
    def test_distances_are_in_millimeters(self, factor, spacing):
        np.testing.assert_array_less(level_grid(ANISO, factor).spacing, np.array(spacing) + 0.2)
        if factor < 4:
            np.testing.assert_allclose(level_grid(ANISO, factor).spacing, spacing)

    @pytest.mark.parametrize("grid", [ANISO, ISO, grid_of((5, 40, 1), (1.0, 1.0, 6.0)), Grid((40, 30), np.eye(3))])
    @pytest.mark.parametrize("factor", [0.5, 1, 1.7, 2, 4, 16])
    def test_never_finer_than_the_voxels_nor_too_few(self, grid, factor):
        level = level_grid(grid, factor)
        assert (level.spacing >= grid.spacing - 1e-9).all()
        assert (level.spacing <= np.maximum(grid.spacing, factor * grid.spacing.min()) + 1e-9).all()
        for samples, voxels in zip(level.shape, grid.shape):
            assert min(8, voxels) <= samples <= voxels
        np.testing.assert_allclose(level.center, grid.center)

    def test_full_resolution_is_the_grid_itself(self):
        assert level_grid(ANISO, 1) is ANISO


class TestDistanceRatios:
    @pytest.mark.parametrize("angle", [0.0, 0.4])
    @pytest.mark.parametrize("factor", [1, 4, 8])
    def test_are_one_for_isotropic_voxels(self, angle, factor):
        for voxel in (0.7, 2.0, 2.9):  # of the moving image
            moving = turned(angle, (voxel,) * 3, (9, 100, 100))
            assert distance_ratios(ISO, moving, factor, np.eye(4)).tolist() == [1, 1, 1]

    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize(("factor", "expected"), [(1, 6), (2, 3), (4, 1.5), (8, 1)])
    def test_follow_the_slices_of_either_image(self, axis, factor, expected):
        spacing = np.where(np.arange(3) == axis, 6.0, 1.0)
        thick = grid_of(tuple(np.where(spacing > 1, 18, 100)), tuple(spacing))
        thin = grid_of((100, 100, 100), (1.0, 1.0, 1.0))
        for pair in ((thick, thick), (thick, thin), (thin, thick)):
            np.testing.assert_allclose(distance_ratios(*pair, factor, np.eye(4)), np.where(spacing > 1, expected, 1), rtol=1e-6)

    def test_follow_the_affine_between_the_images(self):
        """A quarter turn about z: the slices of the moving image lie across the y axis of the fixed image."""
        fixed, moving = Grid((90, 90, 90), np.eye(4)), Grid((15, 90, 90), np.diag([6.0, 1.0, 1.0, 1.0]))
        turn = np.eye(4)
        turn[:2, :2] = [[0, -1.0], [1.0, 0]]
        np.testing.assert_allclose(distance_ratios(fixed, moving, 1, np.eye(4)), [6, 1, 1], rtol=1e-6)
        # scales do not matter
        np.testing.assert_allclose(
            distance_ratios(fixed, moving, 1, turn @ np.diag([1.1, 0.9, 1.0, 1.0])), [1, 6, 1], rtol=1e-6
        )

    def test_change_steadily_with_the_angle(self):
        fixed = Grid((90, 90, 90), np.eye(4))
        angles = np.linspace(0, np.pi / 2, 7)
        moving = [grid_about_x(a, (90, 90, 15), (1.0, 1.0, 6.0)) for a in angles]
        found = np.array([distance_ratios(fixed, m, 1, np.eye(4)) for m in moving])
        np.testing.assert_allclose(found[:, 1], np.sqrt(np.cos(angles) ** 2 + 36 * np.sin(angles) ** 2), rtol=1e-5)
        np.testing.assert_allclose(found[:, 2], found[::-1, 1], rtol=1e-5)

    def test_a_single_slice_has_no_thickness(self):
        one = grid_of((40, 40, 1), (1.0, 1.0, 6.0))
        assert distance_ratios(one, one, 1, np.eye(4)).tolist() == [1, 1, 1]


def grid_about_x(angle: float, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Grid:
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Grid(shape, turn @ np.diag([*spacing, 1.0]))


class TestLevel:
    @pytest.mark.parametrize("factor", [1, 2, 4])
    @pytest.mark.parametrize(("derivative", "channels"), [("none", (1, 1)), ("basis", (1, 2)), ("both", (2, 2))])
    def test_shapes(self, factor, derivative, channels):
        level = make_level(image_of(ANISO, wave), image_of(ISO, wave), factor, derivative)
        assert all(a <= b for a, b in zip(level.grid.shape, level_grid(ANISO, factor).shape))
        np.testing.assert_allclose(level.grid.spacing, level_grid(ANISO, factor).spacing)
        assert level.other_grid.shape == ISO.shape
        assert level.reference.shape == (1, channels[0], *level.grid.shape) and level.weight is None
        assert level.other.shape == (1, channels[1], *ISO.shape) and not level.masked

    @pytest.mark.parametrize(
        ("factor", "less", "less_other"),  # by how many voxels the masks shrink: one where an axis is not smoothed
        [(1, (1, 1, 1), (1, 1, 0)), (2, (0, 0, 1), (1, 1, 0)), (4, (0, 0, 0), (0, 0, 0))],
    )
    def test_masks_come_along(self, factor, less, less_other):
        weights = [torch.zeros(1, *g.shape) for g in (ANISO, ISO)]
        for weight in weights:
            weight[:, 4:-4, 4:-4, 3:-3] = 1
        level = make_level(image_of(ANISO, wave, weights[0]), image_of(ISO, wave, weights[1]), factor, "basis")
        low, high = np.array([4, 4, 3]) + less_other, np.array(ISO.shape) - [4, 4, 3] - less_other
        expected = torch.zeros(1, *ISO.shape)
        expected[(0, *(slice(a, b) for a, b in zip(low, high)))] = 1
        assert level.masked and torch.equal(level.other[:, -1:], expected[None])
        assert level.weight.shape == (1, 1, *level.grid.shape)
        voxels = apply_affine(np.linalg.inv(ANISO.affine), level.grid.points())
        low, high = np.array([4, 4, 3]) + less, np.array(ANISO.shape) - [5, 5, 4] - less  # the outermost that count
        deep = ((voxels > low - 1e-6) & (voxels < high + 1e-6)).all(-1)
        far = ((voxels < low - 1 + 1e-6) | (voxels > high + 1 - 1e-6)).any(-1)
        weight = level.weight[0, 0].numpy()
        np.testing.assert_allclose(weight[deep], 1, atol=1e-5)
        np.testing.assert_allclose(weight[far], 0, atol=1e-5)
        assert deep.any() and far.any()

    @pytest.mark.parametrize("factor", [1, 2, 4])
    def test_samples_are_where_the_grid_says(self, factor):
        def ramp(world: np.ndarray) -> np.ndarray:
            return world @ [1.0, 0.5, -0.7]

        reference = image_of(ANISO, ramp)
        level = make_level(reference, image_of(ISO, ramp), factor)
        points = torch.from_numpy(np.stack([ramp(g.points()) for g in [ANISO]])).float()
        gain = (reference.image.flatten()[-1] - reference.image.flatten()[0]) / (points.flatten()[-1] - points.flatten()[0])
        offset = reference.image.flatten()[0] - gain * points.flatten()[0]
        expected = gain * torch.from_numpy(ramp(level.grid.points())).float() + offset
        inner = (slice(3, -3),) * 3 if factor < 4 else (slice(2, -2),) * 3
        torch.testing.assert_close(level.reference[0, 0][inner], expected[inner], atol=2e-3, rtol=0)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("factor", [1, 2, 4])
    def test_a_constant_image_stays_constant(self, masked, factor):
        weight = None
        if masked:
            weight = torch.zeros(1, *ISO.shape)
            weight[:, 3:-3, 3:-3, 3:-3] = torch.rand(1, 11, 10, 12) + 0.01
        flat = PreparedImage(torch.full((1, *ISO.shape), 0.7), weight, ISO, ISO, (0, 1, 2), (False,) * 3)
        level = make_level(flat, flat, factor, "both")
        torch.testing.assert_close(level.reference[:, 0], torch.full_like(level.reference[:, 0], 0.7), atol=1e-4, rtol=0)
        torch.testing.assert_close(level.other[:, 0], torch.full_like(level.other[:, 0], 0.7), atol=1e-4, rtol=0)
        assert level.reference.isfinite().all() and level.other.isfinite().all()
        assert float(level.reference[:, 1].max()) < 1e-4 and float(level.other[:, 1].max()) < 1e-4

    @pytest.mark.parametrize("factor", [2, 4])
    def test_smoothing_takes_nothing_from_outside_the_mask(self, factor):
        weight = torch.zeros(1, *ISO.shape)
        weight[:, 3:-3, 3:-3, 3:-3] = 1
        clean = image_of(ISO, wave, weight)
        garbage = torch.where(weight > 0, clean.image, torch.rand_like(clean.image))
        dirty = PreparedImage(garbage, weight, clean.grid, clean.stored, clean.axes, clean.flips)
        inside = weight[0] > 0
        outputs = [make_level(image, image, factor).other[0, 0][inside] for image in (clean, dirty)]
        torch.testing.assert_close(*outputs, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("grid", [ISO, ANISO], ids=["iso", "aniso"])
    @pytest.mark.parametrize("factor", [1, 2, 4])
    def test_nor_do_edges_and_interpolation_where_it_counts(self, factor, grid):
        """Whatever lies outside the mask, neither a voxel that counts nor a neighbor it is interpolated with changes."""
        weight = torch.zeros(1, *grid.shape)
        weight[:, 4:-4, 5:-4, 2:-2] = 1
        clean = image_of(grid, wave, weight)
        garbage = torch.where(weight > 0, clean.image, torch.rand_like(clean.image))
        dirty = PreparedImage(garbage, weight, clean.grid, clean.stored, clean.axes, clean.flips)
        one, two = (make_level(image, image, factor, "both") for image in (clean, dirty))
        counts = one.other[0, -1].numpy() > 0
        near = torch.from_numpy(-minimum_filter(-counts.astype(np.float32), 3)) > 0  # the neighbors it is interpolated with
        assert counts.sum() > 50
        torch.testing.assert_close(one.other[0, 0][near], two.other[0, 0][near], atol=1e-4, rtol=0)
        inside = torch.from_numpy(counts)
        torch.testing.assert_close(one.other[0, 1][inside], two.other[0, 1][inside], atol=1e-4, rtol=0)

    def test_weights_shrink_to_the_least_of_their_neighbors(self):
        weight = torch.rand(1, *ISO.shape)
        weighted = image_of(ISO, wave, weight)
        level = make_level(weighted, weighted, 1, "none")
        np.testing.assert_array_equal(level.other[0, -1], minimum_filter(weight[0].numpy(), 3, mode="nearest"))
        smoothed = make_level(weighted, weighted, 2, "none")
        assert torch.equal(smoothed.other[0, -1], weight[0])

    def test_one_slice_keeps_its_weights(self):
        flat = grid_of((20, 20, 1), (1.0, 1.0, 5.0))
        weight = torch.zeros(1, *flat.shape)
        weight[:, 4:-4, 4:-4] = 1
        level = make_level(image_of(flat, wave, weight), image_of(flat, wave, weight), 1, "basis")
        assert float(level.other[0, -1].sum()) == 10 * 10 == float(level.weight.sum())

    def test_smoothing_grows_with_the_distance_of_samples(self):
        noise = prepare(torch.rand(1, *ISO.shape), None, 0.001, CPU, ISO)
        spreads = [float(make_level(noise, noise, factor).other.std() / noise.image.std()) for factor in (1, 2, 4)]
        assert spreads[0] == pytest.approx(1) and spreads[1] < 0.5 and spreads[2] < spreads[1]

    def test_empty_borders_are_left_out_but_nothing_else(self):
        grid = grid_of((50, 40, 30), (1.0, 1.0, 1.0))

        def ball(world: np.ndarray) -> np.ndarray:
            return np.exp(-((world - grid.center) ** 2).sum(-1) / 18)

        prepared = image_of(grid, ball)
        whole = prepared.image[0]
        level = make_level(prepared, prepared, 1)
        assert np.prod(level.grid.shape) < 0.7 * np.prod(grid.shape)
        assert float(level.reference[0, 0].sum()) == pytest.approx(float(whole.sum()), rel=0.02)
        torch.testing.assert_close(level.reference[0, 0].max(), whole.max())
        low = np.rint(apply_affine(np.linalg.inv(grid.affine), level.grid.affine[:3, 3])).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(low, level.grid.shape))
        assert torch.equal(level.reference[0, 0], whole[box])

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("factor", [1, 2])
    def test_the_box_is_the_foreground_and_six_samples_more(self, factor, masked):
        grid = Grid((50, 40, 30), np.diag([1.0, 1, 2, 1]))
        values = torch.full((1, *grid.shape), 0.04)
        values[0, 20:25, 2:9, 14] = 0.06
        weight = None
        if masked:  # what does not count is no foreground, however bright
            values[0, 45:, 30:] = 1.0
            weight = torch.ones(1, *grid.shape)
            weight[0, 44:, 29:] = 0
        image = PreparedImage(values, weight, grid, grid, (0, 1, 2), (False,) * 3)
        level = make_level(image, image, factor, "both")
        if factor == 1:
            assert level.grid.shape == (5 + 12, 9 + 6, 1 + 12)
            np.testing.assert_allclose(level.grid.affine[:3, 3], [20 - 6, 0, 2 * (14 - 6)])
        else:
            whole = level_grid(grid, factor)
            assert all(a < b for a, b in zip(level.grid.shape, whole.shape))
            corners = apply_affine(np.linalg.inv(level.grid.affine), np.array([[20.0, 2, 28], [24, 8, 28]]))
            # the outermost sample in the foreground lies less than one sample inside of its border
            assert (corners[0] >= [5, 0, 5]).all() and (np.array(level.grid.shape) - 1 - corners[1] >= 5).all()
            voxels = apply_affine(np.linalg.inv(whole.affine), level.grid.affine[:3, 3])
            np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-9)  # cropped, not sampled anew
        assert level.reference.shape == (1, 2, *level.grid.shape)
        assert level.weight is None or level.weight.shape == (1, 1, *level.grid.shape)

    @pytest.mark.parametrize("masked", [False, True])
    def test_a_smaller_margin_tells_its_share_of_the_samples(self, masked):
        grid = Grid((50, 40, 30), np.diag([1.0, 1, 2, 1]))
        values = torch.zeros(1, *grid.shape)
        values[0, 20:25, 2:9, 14] = 1.0
        weight = torch.zeros(1, *grid.shape)
        weight[0, 18:, :, 10:] = 0.5
        image = PreparedImage(values, weight if masked else None, grid, grid, (0, 1, 2), (False,) * 3)
        level = make_level(image, image, 1, margins=(3, 4, 6))
        assert level.grid.shape == (5 + 6, 7 + 2 + 4, 1 + 12)
        np.testing.assert_allclose(level.grid.affine[:3, 3], [20 - 3, 0, 2 * (14 - 6)])
        large = make_level(image, image, 1)
        expected = float(level.weight.sum() / large.weight.sum()) if masked else 11 * 13 * 13 / (17 * 15 * 13)
        assert level.share == pytest.approx(expected) and level.share < 1 == large.share

    def test_an_image_without_foreground_is_kept_whole(self):
        dark = PreparedImage(torch.zeros(1, *ISO.shape), None, ISO, ISO, (0, 1, 2), (False,) * 3)
        assert make_level(dark, dark, 1, "basis").grid.shape == ISO.shape


class TestDerivative:
    @pytest.mark.parametrize("factor", [1, 2, 3])
    def test_as_steep_along_thick_voxels_as_along_thin_ones(self, factor):
        center, axes = ANISO.center, ANISO.affine[:3, :3] / ANISO.spacing

        def pyramid(world: np.ndarray) -> np.ndarray:
            return np.abs((world - center) @ axes)[..., [0, 2]].max(-1)

        prepared = image_of(ANISO, pyramid)
        level = make_level(prepared, image_of(ISO, pyramid), factor, "both")
        along = np.abs((level.grid.points() - center) @ axes)
        magnitude = level.reference[0, 1].numpy()
        inner = (np.abs(along[..., 0] - along[..., 2]) > 6) & (along.max(-1) < 12) & (along[..., [0, 2]].max(-1) > 4)
        thin, thick = (magnitude[inner & (along[..., a] > along[..., 2 - a])] for a in (0, 2))
        assert len(thin) > 5 and len(thick) > 5
        assert thin.mean() == pytest.approx(thick.mean(), rel=0.02) and thin.std() < 0.02 * thin.mean()
        # what the intensity changes by from one sample to the next
        values = pyramid(ANISO.points())
        gain = float(prepared.image[0, 15, 16, 8] - prepared.image[0, 15, 16, 6]) / (values[15, 16, 8] - values[15, 16, 6])
        assert thin.mean() == pytest.approx(gain * level.grid.spacing.min(), rel=0.02)

    def test_the_same_anatomy_on_two_grids_has_the_same_edges(self):
        def function(world: np.ndarray) -> np.ndarray:
            return np.sin(world @ [0.12, 0.05, 0.1])

        fine, coarse = grid_of((37, 33, 35), (1.0, 1.0, 1.0)), grid_of((37, 33, 18), (1.0, 1.0, 2.0))
        levels = [make_level(image_of(g, function), image_of(ISO, function), 1, "both") for g in (fine, coarse)]
        assert [level.grid.shape for level in levels] == [fine.shape, coarse.shape]  # bright to the corners
        edges = levels[0].reference[0, 1, 2:-2, 2:-2, 2:-2:2], levels[1].reference[0, 1, 2:-2, 2:-2, 1:-1]
        # sampled twice as far apart, the wave is a little less steep
        torch.testing.assert_close(*edges, atol=0.05, rtol=0)

    def test_of_a_single_slice(self):
        flat = grid_of((20, 20, 1), (1.0, 1.0, 5.0))
        level = make_level(image_of(flat, wave), image_of(flat, wave), 2, "both")
        assert level.reference.isfinite().all() and level.grid.shape[2] == 1

    @pytest.mark.parametrize("factor", [1, 2])
    def test_of_the_basis_is_that_of_both(self, factor):
        images = image_of(ANISO, wave), image_of(ISO, wave)
        none, basis, both = (make_level(*images, factor, derivative) for derivative in ("none", "basis", "both"))
        assert torch.equal(basis.other, both.other) and torch.equal(basis.other[:, :1], none.other)
        assert torch.equal(basis.reference, both.reference[:, :1]) and torch.equal(basis.reference, none.reference)

    @pytest.mark.parametrize("factor", [1, 2, 4])
    def test_counts_in_the_smallest_distance_of_the_levels_samples(self, factor):
        level = make_level(image_of(ANISO, wave), image_of(ISO, wave), factor, "basis")
        per_mm = derivative_magnitude(level.other[0, :1], ISO.affine[:3, :3])
        torch.testing.assert_close(level.other[0, 1:], per_mm * float(level_grid(ANISO, factor).spacing.min()))

    def test_an_image_of_little_contrast_is_not_blown_up(self):
        """No normalization of its own: half the contrast has half the edges."""
        full = image_of(ISO, wave)
        half = PreparedImage(full.image / 2 + 0.25, None, ISO, ISO, full.axes, full.flips)
        edges = [make_level(full, other, 1, "basis").other[0, 1] for other in (full, half)]
        torch.testing.assert_close(edges[1], edges[0] / 2, atol=1e-5, rtol=0)
