# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmarks in the slices of the report, in a browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_locor.geometry import Grid
from monai_locor.registration.landmarks import Landmarks
from monai_locor.report import write_report

from .browsing import NEEDS_BROWSER, browser_in, press, seen, size, wait
from .results import GRID, GRID_2D, aligned, result_with, shift
from .test_browser import BLUE, PINK, choose, colored, drawn, pixels_of

pytestmark = NEEDS_BROWSER


def page_of(path: Path, grid: Grid = GRID) -> Path:
    """Two landmarks: the counterpart of the first one lies in the same axial slice, that of the second one far from it."""
    dims = grid.dims
    result = result_with(*aligned(grid), shift(grid, *[4.0, 0.0, 0.0][:dims]))
    fixed = np.array([[5.0, 7.0, 1.0], [-11.0, -9.0, -13.0]])[:, :dims]
    given = Landmarks.of((fixed, fixed + np.array([[12.0, 0, 0], [4.0, 8.0, 20.0]])[:, :dims]))
    distances = given.distances(np.eye(dims + 1), result.forward_mm, grid)
    result = dataclasses.replace(result, landmarks_mm=distances, arguments={"landmarks": given.described()})
    return write_report(path, result, residuals=False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    with browser_in(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return page_of(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(autouse=True)
def opened(browser, page) -> None:
    size(browser, 1280)
    browser.get(page.as_uri())
    wait(browser)
    choose(browser, "blend")
    browser.find_element("id", "contours").click()


def show(browser: Any, number: int) -> None:
    """Press the button of a landmark."""
    browser.find_element("css selector", f'button.landmark[data-landmark="{number}"]').click()


def test_the_number_of_a_landmark_moves_the_images_to_it(browser):
    for number, (slices, told) in enumerate(((14, "landmark 1"), (7, "landmark 2")), 1):
        show(browser, number)
        pixels = drawn(browser)
        assert colored(pixels, BLUE) > 20
        assert browser.find_element("css selector", ".view output").text.endswith(f"slice {slices} of 26")
        assert browser.find_element("id", "readout").text.endswith(told)
        assert (colored(pixels, PINK) > 20) == (number == 1)  # the other one's counterpart lies in another slice


def places(pixels: list[int], color: tuple[int, int, int], width: int) -> np.ndarray:
    """Mean column and row of the pixels of a color."""
    values = np.array(pixels, np.int64).reshape(-1, width, 4)[..., :3]
    return np.argwhere((np.abs(values - color) < 30).all(-1)).mean(0)[::-1]


def test_circle_and_cross_are_where_the_points_are(browser):
    show(browser, 1)
    for pair, shift_mm in (("fixed after", 8.0), ("fixed before", 12.0)):
        browser.execute_script("document.getElementById('more').open = true")
        choose(browser, pair)
        pixels = drawn(browser)
        width = browser.execute_script("return document.querySelector('.view canvas').width")
        circle, cross = (places(pixels, color, width) for color in (BLUE, PINK))
        # the first axis of the grid runs to the right of the patient, which is on the left of the view
        assert (cross - circle) * 64 / width == pytest.approx([-shift_mm, 0], abs=0.6)


def test_the_switch_and_the_key_hide_them(browser):
    show(browser, 1)
    assert browser.find_element("css selector", ".legend.points").is_displayed()
    browser.find_element("id", "landmarks").click()
    hidden = drawn(browser)
    assert colored(hidden, BLUE) == colored(hidden, PINK) == 0
    assert "landmark" not in browser.find_element("id", "readout").text
    press(browser, "body", "l")
    assert colored(drawn(browser), BLUE) > 20


def test_side_by_side_the_fixed_image_has_circles_only(browser):
    show(browser, 1)
    choose(browser, "side")
    pixels = drawn(browser)
    width = browser.execute_script("return document.querySelector('.view canvas').width")
    values = np.array(pixels, np.int64).reshape(-1, width, 4)[..., :3]
    counts = [
        [int((np.abs(part - color) < 30).all(-1).sum()) for part in np.array_split(values, 3, 1)] for color in (BLUE, PINK)
    ]
    assert min(counts[0]) > 20 and counts[1][0] == 0 and min(counts[1][1:]) > 20


def test_on_a_phone(browser):
    size(browser, 400)
    show(browser, 1)
    seen(browser, "#viewer")
    assert colored(pixels_of(browser), PINK) > 20
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400


def test_two_dimensions(browser, tmp_path):
    browser.get_log("browser")
    browser.get(page_of(tmp_path / "flat.html", GRID_2D).as_uri())
    wait(browser)
    pixels = drawn(browser)
    assert colored(pixels, BLUE) > 40 and colored(pixels, PINK) > 40  # of all landmarks
    show(browser, 2)
    assert browser.find_element("id", "readout").text.endswith("landmark 2") and browser.get_log("browser") == []
