# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The estimated error in the report: the places it leads to, its pictures, and its slices for the viewer."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, apply_affine
from monai_locor.quality.error_map import ErrorMap
from monai_locor.report import write_report
from monai_locor.report.html.error_pictures import CODE_REACH, ShownError
from monai_locor.report.html.images import views_of
from monai_locor.report.html.report_images import ReportImages

from ..phantoms import grid_of
from .results import GRID_2D, aligned, result_with

pytest.importorskip("matplotlib")

GRID = grid_of((30, 28, 26), (2.0, -2.0, 2.0))
UPRIGHT = GRID.reordered(*GRID.canonical_order())
PEAKS = np.array([[-16.0, 0, 0], [16, 0, 0], [0, 16, 0], [0, -16, 0], [0, 0, 16], [0, 0, -16]])
HEIGHTS = np.array([3.0, 5.0, 4.0, 2.5, 2.0, 6.0])  # mm
ANATOMY = np.ones(UPRIGHT.shape, dtype=bool)


def error_map(grid: Grid = GRID, known: np.ndarray | None = None) -> ErrorMap:
    """Errors of 0.5 mm with a peak at every place; bounds of half and twice; determined where ``known``."""
    distances = np.linalg.norm(grid.points()[..., None, :] - PEAKS[:, : grid.dims], axis=-1)
    values = 0.5 + (np.exp(-0.5 * (distances / 3) ** 2) * (HEIGHTS - 0.5)).sum(-1)
    expected = torch.from_numpy(np.where(True if known is None else known, values, math.nan)).float()
    return ErrorMap(expected, expected / 2, 2 * expected, grid)


def images_of(error: ErrorMap | None) -> ReportImages:
    fixed, moving = aligned(GRID)
    whole = torch.ones_like(fixed)
    result = result_with(fixed, moving, error_mm=error)
    return ReportImages.of(result, fixed, moving, {"fixed_mask": whole}, residuals=False)


def test_places_are_the_highest_upper_bounds_in_the_anatomy():
    images = dataclasses.replace(images_of(error_map()), outline=np.ones(UPRIGHT.shape, np.float32))
    places = images.places
    order = np.argsort(-HEIGHTS)[:5]
    np.testing.assert_allclose([place.position_mm for place in places], PEAKS[order], atol=1.8)
    for place, height in zip(places, HEIGHTS[order], strict=True):
        np.testing.assert_allclose(apply_affine(GRID.affine, np.array(place.voxel, dtype=float)), place.position_mm, atol=1e-9)
        expected, low, high = place.error_mm
        assert expected == pytest.approx(height, rel=0.2) and low == pytest.approx(expected / 2) and high == 2 * expected
    steps = np.linalg.norm(PEAKS[order][:, None] - PEAKS[order][None], axis=-1)[~np.eye(5, dtype=bool)]
    assert steps.min() >= 0.1 * GRID.extent.max()
    mask = UPRIGHT.points()[..., 2] > -8  # without the highest peak
    inside = dataclasses.replace(images, masks={"fixed_mask": mask.astype(np.float32)}).places
    np.testing.assert_allclose(inside[0].position_mm, PEAKS[1], atol=1.8)


def test_an_error_that_is_not_determined_leads_nowhere():
    known = GRID.points()[..., 2] > -8
    images = dataclasses.replace(images_of(error_map(known=known)), outline=np.ones(UPRIGHT.shape, np.float32))
    assert all(place.position_mm[2] > -8 for place in images.places) and len(images.places) == 5
    nothing = images_of(error_map(known=np.zeros(GRID.shape, dtype=bool)))
    assert nothing.places == images_of(None).places == [] and nothing.error is None


def test_equal_errors_are_ordered_by_the_local_measures():
    flat = ErrorMap(*(torch.full(GRID.shape, value) for value in (1.0, 0.5, 2.0)), GRID)
    assert images_of(flat).places == []
    fixed, moving = aligned(GRID)
    wrong = torch.zeros(3, *GRID.shape)
    wrong[0] = torch.from_numpy(3 * np.exp(-0.5 * ((GRID.points() - PEAKS[2]) ** 2).sum(-1) / 9)).float()
    result = result_with(fixed, moving, inverse=wrong, error_mm=flat)
    images = ReportImages.of(result, fixed, moving, {}, residuals=False)
    (place,) = dataclasses.replace(images, outline=np.ones(UPRIGHT.shape, np.float32)).places
    np.testing.assert_allclose(place.position_mm, PEAKS[2], atol=2.1)
    assert place.error_mm == (1.0, 0.5, 2.0) and place.reason.startswith("forward and inverse transform differ by")


def test_the_words_and_the_scale():
    half = UPRIGHT.points()[..., 0] > 0
    shown = ShownError.of(error_map(known=GRID.points()[..., 0] > 0), ANATOMY)
    assert "median 0.5 mm" in shown.summary() and "not determined in 50 % of it" in shown.summary()
    assert "not determined" not in ShownError.of(error_map(), ANATOMY).summary()
    np.testing.assert_array_equal(shown.determined, half)
    assert math.log2(shown.top) == round(math.log2(shown.top))
    assert shown.top / 2 < max(np.nanquantile(shown.expected, 0.98), 2 * 2.0) <= shown.top
    for text in (f"{shown.top:g} mm and more", f"{shown.top / 4:g} mm", "not determined"):
        assert text in shown.scale()


def test_colors_lighten_with_the_error_and_lines_mark_where_it_is_not_determined():
    shown = ShownError.of(error_map(known=GRID.points()[..., 0] > 0), ANATOMY)
    peak = np.rint(apply_affine(np.linalg.inv(UPRIGHT.affine), PEAKS[1])).astype(int)
    axial = views_of(UPRIGHT, peak.tolist())[0]
    gray = shown.picture(axial, np.full(UPRIGHT.shape, 0.3, np.float32))
    x, y = (int(v) for v in axial.pixel_of(peak, UPRIGHT.shape))
    light = gray.mean(-1)
    assert light[y, x] > 1.5 * light[2, 2]  # the peak is lighter than a small error
    right = gray[:, gray.shape[1] // 2 + 1 :]  # patient's left is not determined
    assert set(np.round(right.reshape(-1, 3)[:, 0], 2)) == {0.3, 0.6} and np.ptp(right, axis=-1).max() == 0
    assert shown.lines(axial).count('d="M') >= 1
    outside = ShownError.of(error_map(), UPRIGHT.points()[..., 0] > 0).picture(axial, np.zeros(UPRIGHT.shape, np.float32))
    assert outside[:, gray.shape[1] // 2 + 1 :].max() == 0


def test_slices_for_the_viewer_can_be_read_back():
    shown = ShownError.of(error_map(known=GRID.points()[..., 0] > 0), ANATOMY)
    stacks, data = shown.stacks(), shown.data()
    assert data["reach"] == CODE_REACH * data["top"] and len(data["levels"]) == 3
    for name in ("expected", "low", "high"):
        values = getattr(shown, name)[shown.determined]
        read = data["reach"] * (np.round(255 * stacks[name]) / 255) ** 2
        np.testing.assert_allclose(
            read[shown.determined], np.minimum(values, data["reach"]), rtol=0.02, atol=0.02 * data["top"]
        )
        assert np.isfinite(stacks[name]).all()
    assert set(np.unique(shown.region())) == {128, 255}
    opacities = [shade[3] for shade in data["shades"]]
    assert opacities[0] == 0 and opacities == sorted(opacities)


def test_a_page_in_two_dimensions(tmp_path):
    images, error = aligned(GRID_2D), error_map(GRID_2D)
    pages = [
        write_report(tmp_path / "a.html", result_with(*images, error_mm=e), *images, residuals=False).read_text(
            encoding="utf-8"
        )
        for e in (None, error)
    ]
    for text in ('value="error"', 'id="error-of"', "Estimated error in the anatomy", 'data-name="region"', "mm expected"):
        assert [text in page for page in pages] == [False, True], text
    assert 'data-mode="error"' in pages[1] and "expected error over the fixed image, image" in pages[1]
