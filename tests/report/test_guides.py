# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmarks, labels and surfaces that drove a registration, in its report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from monai_locor.geometry import apply_affine
from monai_locor.registration.landmarks import Landmarks
from monai_locor.report import write_report
from monai_locor.report.html.guides import guides_section
from monai_locor.report.html.landmark_points import landmark_parts, landmark_voxels
from monai_locor.report.html.report_images import ReportImages
from monai_locor.report.html.stacks import shown_grid
from monai_locor.report.html.tables import run_tables

from ..phantoms import grid_of, turned
from .results import GRID, aligned, result_with, shift

pytest.importorskip("matplotlib")


def result_of(count: int = 3):
    result = result_with(*aligned(), shift(GRID, 2.0, 0.0, 0.0))
    points = np.linspace([-10.0, -8, -6], [10, 8, 6], count)
    landmarks = Landmarks.of((points, points + [2.0, 0, 0]))
    dice = {"labels": [-3, 7], "before": {"mean": 0.5, "each": [0.5, None]}, "after": {"mean": 0.9, "each": [0.9, None]}}
    given = {"landmarks": landmarks.described(), "labels": {"fixed": {"path": "/a.nii"}, "moving": {"path": "/b.nii"}}}
    given["surfaces"] = [{"fixed": {"path": "/c.vtk"}, "moving": {"path": "/d.stl"}, "weight": 1.0}]
    surface = {"names": ["<c>.vtk"], "before": {"mean": 3.0, "each": [3.0]}, "after": {"mean": 0.4, "each": [0.4]}}
    found = landmarks.distances(np.eye(4), result.forward_mm, GRID)
    return dataclasses.replace(result, landmarks_mm=found, label_dice=dice, surface_mm=surface, arguments=given)


def test_distances_and_dice_are_tables():
    page = guides_section(result_of())
    assert '<th scope="row">mean</th><td>2.00</td><td>0.00</td>' in page and "3 landmarks" in page
    assert page.count('<th scope="row">') == 3 + 3 + 1 + 2 + 2
    assert '<th scope="row">-3</th><td>0.500</td><td>0.900</td>' in page and "<td>–</td>" in page
    assert page.count('class="landmark"') == 3 and page.count("Its number moves") == 1
    assert '<th scope="row">&lt;c&gt;.vtk</th><td>3.00</td><td>0.40</td>' in page
    assert "<details>" not in page and "<details><summary>40 landmarks" in guides_section(result_of(40))


@pytest.mark.parametrize("grid", [GRID, turned(0.4, (2.0, -1.5, 2.5), (30, 28, 26)), grid_of((300, 40), (1.0, -2.0))])
def test_landmarks_are_where_they_belong_in_the_viewer(grid):
    """By the affine of the viewer; a picture of 300 pixels is shown with 256."""
    field = [2.0, -1.0, 3.0][: grid.dims]
    initial = np.eye(grid.dims + 1)
    initial[:-1, -1] = 5.0
    result = result_with(*aligned(grid), shift(grid, *field), initial=initial)
    fixed = grid.center + np.random.default_rng(0).uniform(-9, 9, (6, grid.dims))
    moving = fixed + field + np.random.default_rng(1).normal(0, 1, fixed.shape)
    result = dataclasses.replace(result, arguments={"landmarks": Landmarks.of((fixed, moving)).described()})
    images = ReportImages.of(result, result.fixed_image, result.moving_image, {}, residuals=False)
    found, affine = landmark_voxels(images), shown_grid(images.grid).affine
    for name, expected in (("fixed", fixed), ("before", moving - 5.0), ("after", moving - field)):
        assert np.abs(apply_affine(affine, np.array(found[name])) - expected).max() < 0.05


def test_without_landmarks_nothing_is_drawn():
    result = result_with(*aligned())
    images = ReportImages.of(result, result.fixed_image, result.moving_image, {}, residuals=False)
    assert landmark_voxels(images) is None
    assert landmark_parts(images) == {"landmark_switch": "", "landmark_legend": "", "no_landmarks": " hidden"}


def test_inputs_are_named():
    page = run_tables(result_of())
    assert "3 pairs of points" in page and all(name in page for name in ("/a.nii", "/b.nii", "/c.vtk", "/d.stl"))


@pytest.mark.slow
def test_they_are_part_of_the_page(tmp_path):
    plain = result_with(*aligned(), shift(GRID, 2.0, 0.0, 0.0))
    assert guides_section(plain) == ""
    pages = [write_report(tmp_path / "a.html", each, residuals=False).read_text("utf-8") for each in (plain, result_of())]
    assert ['href="#guides"' in page and 'id="guides"' in page for page in pages] == [False, True]
