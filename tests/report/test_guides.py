# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmarks and labels that drove a registration, in its report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from monai_locor.registration.landmarks import Landmarks
from monai_locor.report import write_report
from monai_locor.report.html.guides import guides_section
from monai_locor.report.html.tables import run_tables

from .results import GRID, aligned, result_with, shift

pytest.importorskip("matplotlib")


def result_of(count: int = 3):
    result = result_with(*aligned(), shift(GRID, 2.0, 0.0, 0.0))
    points = np.linspace([-10.0, -8, -6], [10, 8, 6], count)
    landmarks = Landmarks.of((points, points + [2.0, 0, 0]))
    dice = {"labels": [-3, 7], "before": {"mean": 0.5, "each": [0.5, None]}, "after": {"mean": 0.9, "each": [0.9, None]}}
    given = {"landmarks": landmarks.described(), "labels": {"fixed": {"path": "/a.nii"}, "moving": {"path": "/b.nii"}}}
    found = landmarks.distances(np.eye(4), result.forward_mm, GRID)
    return dataclasses.replace(result, landmarks_mm=found, label_dice=dice, arguments=given)


def test_distances_and_dice_are_tables():
    page = guides_section(result_of())
    assert '<th scope="row">mean</th><td>2.00</td><td>0.00</td>' in page and "3 landmarks" in page
    assert page.count('<th scope="row">') == 3 + 3 + 1 + 2
    assert '<th scope="row">-3</th><td>0.500</td><td>0.900</td>' in page and "<td>–</td>" in page
    assert "<details>" not in page and "<details><summary>40 landmarks" in guides_section(result_of(40))


def test_inputs_are_named():
    page = run_tables(result_of())
    assert "3 pairs of points" in page and "/a.nii" in page and "/b.nii" in page


@pytest.mark.slow
def test_they_are_part_of_the_page(tmp_path):
    plain = result_with(*aligned(), shift(GRID, 2.0, 0.0, 0.0))
    assert guides_section(plain) == ""
    pages = [write_report(tmp_path / "a.html", each, residuals=False).read_text("utf-8") for each in (plain, result_of())]
    assert ['href="#guides"' in page and 'id="guides"' in page for page in pages] == [False, True]
