# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Drawing of a report, number by number: charts, tables, paths, planes, contours and colors of labels."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid
from monai_locor.quality.labels import LabelOverlap
from monai_locor.report.html.charts import BOTTOM_MARGIN, CHART_HEIGHT, CHART_WIDTH, LEFT_MARGIN, TOP_MARGIN, curve, histogram
from monai_locor.report.html.images import _path, colors
from monai_locor.report.html.labels import _color, color_indices, labels_section
from monai_locor.report.html.stacks import columns_of, shown_grid
from monai_locor.report.html.tables import _fold, _grid, _matrix, explained, table
from monai_locor.report.pictures.contours import bright_center, contour_levels, smoothed_outline
from monai_locor.report.pictures.planes import intensity_limits, planes_through, upright, window

from ..phantoms import ORDERS, grid_of, turned


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<all>{text}</all>")


def line_of(svg: str) -> np.ndarray:
    """Points of the line of a chart, ``(N, 2)``."""
    return np.array([[float(v) for v in part.split()] for part in re.split("[ML]", re.search('line" d="([^"]*)', svg)[1])[1:]])


class TestCharts:
    def test_a_line_rises_with_its_values_and_stays_inside(self):
        points = line_of(curve([3.0, 1.0, 2.0, 5.0], "x"))
        assert np.argsort(points[:, 1]).tolist() == [3, 0, 2, 1]  # downwards on the page
        assert (np.diff(points[:, 0]) > 0).all()
        assert points.min(0)[0] >= LEFT_MARGIN and points.max(0)[0] <= CHART_WIDTH
        assert points.min(0)[1] >= TOP_MARGIN and points.max(0)[1] <= CHART_HEIGHT - BOTTOM_MARGIN

    def test_scale_and_offset_change_the_labels_only(self):
        values = np.random.default_rng(0).random(9)
        one, other = curve(values.tolist(), "x"), curve((50 * values - 7).tolist(), "x")
        np.testing.assert_allclose(line_of(one), line_of(other), atol=0.11)
        assert one != other

    def test_gaps_start_a_new_line(self):
        drawn = re.search('line" d="([^"]*)', curve([1.0, None, 2.0, 3.0, float("nan"), 4.0], "x"))[1]
        assert re.sub("[^ML]", "", drawn) == "MMLM"

    def test_bars_are_the_counts_and_folding_is_marked(self):
        values = np.concatenate((np.full(30, 0.5), np.full(10, -0.5), np.full(20, 1.5)))
        bars = parsed(histogram(values, -1, 2, "x", bins=3)).findall(".//rect")
        heights = np.array([float(bar.get("height")) for bar in bars])
        np.testing.assert_allclose(heights / heights.max(), [1 / 3, 1, 2 / 3], atol=0.01)
        assert [bar.get("class") for bar in bars] == ["bad", None, None]

    def test_values_beyond_the_range_are_counted_at_its_ends(self):
        inside, beyond = (histogram(np.array(v), 0, 1, "x", bins=4) for v in ([0.01, 0.5, 0.99], [-7.0, 0.5, 12.0]))
        assert inside == beyond

    def test_the_mark_lies_at_its_value(self):
        for mark in (0.0, 0.5, 1.0):
            found = parsed(histogram(np.ones(3), 0, 1, "x", mark=mark)).find(".//line")
            share = (float(found.get("x1")) - LEFT_MARGIN) / (CHART_WIDTH - LEFT_MARGIN - 8)
            assert share == pytest.approx(mark, abs=1e-3) and found.get("x1") == found.get("x2")


class TestTables:
    NASTY = {"<b>": "a & b", "list": [1, 2], "none": None, "number": 0.123456789, "inner": {"k<": "<v>"}}

    def test_all_entries_are_escaped_and_kept(self):
        found = parsed(table(self.NASTY).replace("<br>", "<br/>"))
        texts = ["".join(cell.itertext()) for cell in found.findall(".//td")]
        assert [cell.text for cell in found.findall(".//th")] == list(self.NASTY)
        assert texts == ["a & b", "1, 2", "–", "0.123457", "k< <v>"]

    def test_explanations_stand_beside_their_values(self):
        text = explained({"a": 1, "b": 2}, {"a": "x < y"})
        assert text.count("<tr>") == 2 and "x &lt; y" in text

    def test_grids_and_matrices_have_one_cell_per_number(self):
        rows = [{"factor": 2, "learning_rate": None}, {"factor": 1, "learning_rate": 0.5}]
        found = parsed(_grid(rows))
        assert [cell.text for cell in found.findall(".//th")] == ["factor", "learning rate"] and len(
            found.findall(".//td")
        ) == 4
        assert _grid([]) == "<p>none</p>"
        assert len(parsed(_matrix(np.eye(4).tolist())).findall(".//td")) == 16

    def test_folded_parts(self):
        assert "open" in _fold("a<", "", True) and "open" not in _fold("a", "", False) and "a&lt;" in _fold("a<", "", True)


class TestPaths:
    @pytest.mark.parametrize("count", [2, 15, 20])
    def test_a_path_ends_where_its_points_end(self, count):
        points = np.cumsum(np.random.default_rng(0).random((count, 2)) + 0.5, 0)
        head, _, tail = _path(points).partition("l")
        start = np.array([float(v) for v in head[1:].split()])
        steps = np.array([float(v) for v in tail.split()]).reshape(-1, 2)
        np.testing.assert_allclose(start, points[0], atol=0.051)
        np.testing.assert_allclose(start + steps.sum(0), points[-1], atol=0.051)
        np.testing.assert_allclose(start + np.cumsum(steps, 0), points[1:], atol=0.051)

    def test_long_paths_are_thinned_and_end_at_the_same_point(self):
        points = np.stack([np.arange(101.0), np.arange(101.0) ** 2 / 100], 1)
        steps = np.array([float(v) for v in _path(points).split("l")[1].split()]).reshape(-1, 2)
        assert len(steps) == 50
        np.testing.assert_allclose(steps.sum(0), [100, 100], atol=0.051)

    def test_a_single_place_is_no_path(self):
        assert _path(np.ones((5, 2))) == ""


class TestPictures:
    def test_the_window_ignores_gain_and_offset_and_keeps_the_order(self):
        volume = np.random.default_rng(0).random((9, 8, 7))
        found = window(3 * volume + 100, None)
        assert found.min() == 0 and found.max() == 1
        np.testing.assert_allclose(window(300 * volume + 1e4), found, atol=1e-6)
        assert (np.diff(found.ravel()[np.argsort(volume.ravel())]) >= 0).all()

    def test_limits_of_empty_and_constant_images(self):
        assert intensity_limits(np.full((3, 3), np.nan)) == (0.0, 0.0) and intensity_limits(np.full((3, 3), 5.0)) == (5.0, 5.0)
        assert not window(np.full((3, 3), np.nan)).any()

    @pytest.mark.parametrize(("axes", "flips"), ORDERS[1::10])
    def test_upright_is_the_same_for_every_storage_order(self, axes, flips):
        grid = turned(0.1, (1.0, 2.0, 3.0), (5, 6, 4))
        values = torch.rand(1, *grid.shape)
        other = values.permute(0, *(1 + a for a in axes)).flip([1 + i for i, f in enumerate(flips) if f])
        one, two = upright(values, grid), upright(other, grid.reordered(axes, flips))
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_allclose(one[1].affine, two[1].affine, atol=1e-9)

    def test_planes_meet_in_their_center(self):
        grid, center = grid_of((5, 6, 4)), (1, 4, 2)
        volume = np.zeros(grid.shape)
        volume[center] = 1
        assert [plane.cut(volume).sum() for plane in planes_through(grid, center)] == [1, 1, 1]
        assert [plane.cut(volume).shape for plane in planes_through(grid, center)] == [(6, 5), (4, 5), (4, 6)]

    def test_the_center_of_what_is_bright(self):
        volume = np.zeros((20, 30, 10))
        volume[4:9, 20:29, 3:6] = 1
        assert bright_center(volume) == [6, 24, 4] and bright_center(np.zeros((4, 6))) == [2, 3]
        found = bright_center(volume[::-1, :, ::-1])
        assert found == [19 - 6, 24, 9 - 4]

    def test_contour_levels_rise_and_need_contrast(self):
        picture = np.random.default_rng(0).random((20, 20))
        low, high = contour_levels(picture)
        assert 0.15 == low < high < 1
        assert contour_levels(np.full((20, 20), 0.5)) == contour_levels(picture[:3, :4]) == contour_levels(0.1 * picture) == []

    def test_outlines_are_smoothed_in_millimeters(self):
        """Twice as fine voxels in the same field of view are smoothed over twice as many."""
        fine, coarse = Grid((400, 3), np.diag([0.5, 1, 1.0])), Grid((200, 3), np.diag([1.0, 1, 1]))
        steps = [np.repeat(np.arange(n)[:, None] >= n // 2, 3, 1).astype(np.float32) for n in (400, 200)]
        one, two = smoothed_outline(steps[0], fine), smoothed_outline(steps[1], coarse)
        np.testing.assert_allclose((one[0::2] + one[1::2]) / 2, two, atol=0.03)

    def test_colors_end_at_the_limits_and_are_dark_where_nothing_is_known(self):
        pytest.importorskip("matplotlib")
        found = colors(np.array([-5.0, 0.0, 1.0, 9.0, np.nan]), 0.0, 1.0, "viridis")
        assert found.shape == (5, 3)
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[2], found[3])
        np.testing.assert_array_equal(found[4], 0.09)

    @pytest.mark.parametrize("shape", [(100, 100, 50), (30, 60, 7), (5, 5, 1), (40, 40)])
    def test_stacks_are_about_square_and_hold_all_slices(self, shape):
        columns = columns_of(shape)
        count = shape[2] if len(shape) > 2 else 1
        assert 1 <= columns <= count
        width, height = columns * shape[0], -(-count // columns) * shape[1]
        assert count < 4 or 0.4 < width / height < 2.5

    @pytest.mark.parametrize("shape", [(600, 40, 300), (100, 100)])
    def test_the_viewers_grid_keeps_the_field_of_view(self, shape):
        grid = Grid(shape, np.diag([1.0, 2.0, 3.0, 1.0][-len(shape) - 1 :]))
        found = shown_grid(grid)
        assert max(found.shape) <= 256
        np.testing.assert_allclose(found.extent, grid.extent)
        np.testing.assert_allclose(found.center, grid.center)


class TestLabels:
    GRID = grid_of((6, 5, 4))

    def overlap(self, fixed: torch.Tensor | None, warped: torch.Tensor | None, dice=()) -> LabelOverlap:
        return LabelOverlap("a < b", fixed, warped, dict(dice), dict(dice))

    def test_equal_labels_have_equal_colors_in_both_maps(self):
        rng = torch.Generator().manual_seed(0)
        fixed, warped = (torch.randint(0, 4, (1, *self.GRID.shape), generator=rng) * 100 for _ in range(2))
        maps, palette = color_indices(self.overlap(fixed, warped), self.GRID)
        assert len(palette) == 3 == len(set(palette))
        for label in (0, 100, 200, 300):
            found = {side: set(maps[side][(values[0] == label).numpy()].tolist()) for side, values in
                     (("fixed", fixed), ("warped", warped))}  # fmt: skip
            assert found["fixed"] == found["warped"] and len(found["fixed"]) == 1
        assert (maps["fixed"] == 0).sum() == int((fixed == 0).sum())

    def test_a_missing_map_is_left_out(self):
        labels = torch.ones(1, *self.GRID.shape, dtype=torch.int64)
        assert list(color_indices(self.overlap(labels, None), self.GRID)[0]) == ["fixed"]
        assert list(color_indices(self.overlap(None, labels), self.GRID)[0]) == ["warped"]
        assert "No label map of the moving image" in labels_section([self.overlap(labels, None)])
        assert "No label map of the fixed image" in labels_section([self.overlap(None, labels)])

    def test_neighboring_colors_differ_and_all_are_valid(self):
        found = [_color(n) for n in range(60)]
        assert len(set(found)) == 60 and all(re.fullmatch("#[0-9a-f]{6}", color) for color in found)
        values = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in found])
        assert np.abs(np.diff(values, axis=0)).sum(1).min() > 60

    def test_without_maps_there_is_no_section_and_names_are_escaped(self):
        assert labels_section([]) == ""
        labels = torch.ones(1, *self.GRID.shape, dtype=torch.int64)
        assert "a &lt; b" in labels_section([self.overlap(labels, labels, {1: 0.5})])
