# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The report on the first screen, by keyboard, on a phone and on paper."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.quality import Reason, Verdict
from monai_locor.report import write_report
from monai_locor.report.html.explanations import CHECKS

from .browsing import NEEDS_BROWSER, browser_in, press, seen, size, wait, webdriver
from .results import GRID, GRID_2D
from .test_error_pictures import error_map
from .test_html import result_of
from .test_labels import blocks

pytestmark = NEEDS_BROWSER

PHONE = 390  # CSS pixels


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Of a result with every check failed, many warnings, masks and labels."""
    long = "a text of the length that such texts have, with numbers, 1.23 times those of others, and some more words"
    reasons = tuple(Reason(check, "FAIL" if n % 2 else "WARN", long, long[:60]) for n, check in enumerate(CHECKS))
    verdict = Verdict("FAIL", reasons, {"stretch": 1.0, "shear_degrees": 0.0, "affine_determinant": 1.0})
    labels = {"fixed_labels": [blocks(GRID)] * 3, "moving_labels": [blocks(GRID, 6)] * 3}
    result = result_of(GRID, verdict=verdict, warnings=tuple(f"{long} {n}" for n in range(20)))
    return write_report(tmp_path_factory.mktemp("report") / "report.html", result, fixed_mask=blocks(GRID, 8), **labels)


@pytest.fixture(scope="module")
def estimated(tmp_path_factory) -> Path:
    """Of a result with an estimated error, which is not determined in the lowest slices."""
    mask = MetaTensor(torch.ones(1, *GRID.shape), affine=torch.from_numpy(GRID.affine.copy()))
    error = error_map(GRID, GRID.points()[..., 2] > -20)
    path = tmp_path_factory.mktemp("estimated") / "report.html"
    return write_report(path, result_of(GRID, error_mm=error), fixed_mask=mask, residuals=False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    with browser_in(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(autouse=True)
def opened(browser, page) -> None:
    size(browser, 1280)
    browser.get(page.as_uri())
    wait(browser)


def shown(browser: Any) -> list[int]:
    """The slices of the three views."""
    seen(browser)
    script = "return [...document.querySelectorAll('.view canvas')].map(c => Number(c.getAttribute('aria-valuenow')))"
    return browser.execute_script(script)


def tab(browser: Any, selector: str) -> Any:
    """Press Tab until an element has the focus."""
    wanted = browser.find_element("css selector", selector)
    for _ in range(80):
        webdriver.ActionChains(browser).send_keys(webdriver.Keys.TAB).perform()
        if browser.switch_to.active_element == wanted:
            return wanted
    raise AssertionError(f"{selector} is not reached")


def keys(browser: Any, *pressed: str) -> None:
    webdriver.ActionChains(browser).send_keys(*pressed).perform()


def test_verdict_error_and_places_are_on_the_first_screen(browser, estimated):
    browser.get(estimated.as_uri())
    wait(browser)
    for selector in ("#verdict", ".estimate", ".view .stage", "#flicker", "input[value=side] + span", ".places ol"):
        box = browser.find_element("css selector", selector).rect
        assert box["height"] > 0 and box["y"] >= 0 and box["y"] + box["height"] <= 900, selector
    assert browser.find_element("id", "viewer").get_attribute("data-mode") == "error"
    assert len(browser.find_elements("css selector", ".place")) == 5


def test_the_error_is_colored_chosen_and_read(browser, estimated):
    browser.get(estimated.as_uri())
    wait(browser)
    looks = [seen(browser)]
    press(browser, "#error-of", webdriver.Keys.END)  # the upper bound
    looks.append(seen(browser))
    press(browser, "#mix", webdriver.Keys.HOME)  # the image alone
    looks.append(seen(browser))
    browser.find_element("css selector", "input[value=blend] + span").click()
    assert not browser.find_element("id", "error-of").is_displayed()
    looks.append(seen(browser))
    keys(browser, "e")
    assert browser.find_element("id", "error-of").is_displayed()
    assert len(set(looks)) == 4
    browser.find_element("css selector", ".place").click()
    shown(browser)
    expected, low, high = re.findall(r"[\d.]+", browser.find_element("css selector", ".place b").text)
    told = browser.find_element("id", "readout").text
    found = re.search(r"expected error ([\d.]+) mm, 90 % interval ([\d.]+) to ([\d.]+) mm", told)
    assert [float(v) for v in found.groups()] == pytest.approx([float(expected), float(low), float(high)], rel=0.2, abs=0.1)
    press(browser, ".view .slice", webdriver.Keys.HOME)
    shown(browser)
    assert "the error is not determined here" in browser.find_element("id", "readout").text


def test_a_place_moves_all_views_and_says_so(browser):
    places = json.loads(browser.find_element("id", "viewer").get_attribute("data-volumes"))["places"]
    assert len(places) == len(browser.find_elements("css selector", ".place")) > 1
    for number in (2, 1):
        button = browser.find_element("css selector", f".place[data-place='{number}']")
        button.click()
        x, y, z = places[number - 1]
        assert shown(browser) == [z + 1, y + 1, x + 1]
        assert button.get_attribute("aria-pressed") == "true"
        assert browser.find_element("id", "told").get_attribute("textContent").startswith(f"Place {number} of {len(places)}")
    press(browser, ".view .slice", webdriver.Keys.HOME)
    shown(browser)
    assert browser.find_elements("css selector", ".place[aria-pressed=true]") == []


def test_everything_is_reached_and_done_by_keyboard(browser):
    skip = tab(browser, ".skip")
    assert skip.rect["y"] >= 0  # visible while it has the focus
    before = shown(browser)
    tab(browser, "#flicker")
    keys(browser, webdriver.Keys.ENTER)
    assert browser.find_element("id", "flicker").get_attribute("aria-pressed") == "true"
    canvas = tab(browser, ".view canvas")
    keys(browser, webdriver.Keys.ARROW_UP, webdriver.Keys.ARROW_UP)
    assert shown(browser)[0] == before[0] + 2
    assert canvas.get_attribute("aria-valuetext").endswith(f"slice {before[0] + 2} of 26")
    keys(browser, webdriver.Keys.HOME)
    assert shown(browser)[0] == 1
    tab(browser, ".place[data-place='2']")
    keys(browser, webdriver.Keys.SPACE)
    assert browser.find_element("css selector", ".place[data-place='2']").get_attribute("aria-pressed") == "true"
    tab(browser, "#more summary")
    keys(browser, webdriver.Keys.ENTER)
    assert browser.find_element("id", "reset").is_displayed()


def test_the_focus_is_visible(browser):
    tab(browser, ".skip")
    style = (
        "const e = document.querySelector(arguments[0]); e.focus(); "
        "const s = getComputedStyle(e.matches('.choice input') ? e.nextElementSibling : e); "
        "return e === document.activeElement && s.outlineStyle === 'solid' && parseFloat(s.outlineWidth) >= 2"
    )
    for selector in ("#flicker", ".place", ".view canvas", "#mix", "#more summary", "nav a", ".choice input"):
        assert browser.execute_script(style, selector), selector


def test_single_keys(browser):
    mode = browser.find_element("id", "viewer")
    for key, name in (("s", "side"), ("c", "curtain"), ("k", "board"), ("b", "blend")):
        keys(browser, key)
        assert mode.get_attribute("data-mode") == name
    keys(browser, "2")
    assert browser.find_element("css selector", ".place[data-place='2']").get_attribute("aria-pressed") == "true"
    place = shown(browser)
    keys(browser, "r")
    assert shown(browser) != place
    first = seen(browser)
    keys(browser, "+")
    assert seen(browser) != first
    browser.execute_script("document.getElementById('shortcuts').checked = false")
    keys(browser, "s", "1")
    assert mode.get_attribute("data-mode") == "blend"
    assert browser.find_elements("css selector", ".place[aria-pressed=true]") == []


def test_another_mode_ends_the_flicker(browser):
    keys(browser, "f")
    assert browser.find_element("id", "flicker").get_attribute("aria-pressed") == "true"
    keys(browser, "s")
    assert browser.find_element("id", "flicker").get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("mode", ["blend", "side"])
def test_a_phone_shows_everything_without_scrolling_sideways(browser, mode):
    size(browser, PHONE)
    browser.find_element("css selector", f"input[value={mode}] + span").click()
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    small = (
        "return [...document.querySelectorAll('button, .switch, .choice span, summary')].filter(e => e.offsetParent)"
        ".map(e => e.getBoundingClientRect()).filter(r => r.height < 24 || r.width < 24 || r.right > innerWidth + 1).length"
    )
    assert browser.execute_script(small) == 0
    stage = browser.find_element("css selector", ".stage").rect
    assert stage["width"] > 0.8 * PHONE
    browser.find_element("css selector", ".place").click()
    top = browser.execute_script("return document.querySelector('.view').getBoundingClientRect().top")
    assert 0 <= top < 900  # the place is in sight


@pytest.mark.parametrize("kind", ["with errors", "2-D", "all checks failed"])
def test_it_prints_on_two_pages(browser, estimated, tmp_path, kind):
    if kind == "with errors":
        browser.get(estimated.as_uri())
    elif kind == "2-D":
        browser.get(write_report(tmp_path / "a.html", result_of(GRID_2D), residuals=False).as_uri())
    wait(browser)
    for width, height in ((8.27, 11.69), (8.5, 11.0)):  # A4 and letter, inches
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": width, "paperHeight": height})
        assert len(re.findall(rb"/Type\s*/Page\b(?!s)", base64.b64decode(printed["data"]))) == 2


def test_the_pictures_do_not_need_the_script(browser):
    browser.execute_script("document.documentElement.classList.remove('live')")
    stills = browser.find_elements("css selector", ".stills img")
    assert len(stills) == 6 and all(image.is_displayed() for image in stills)
    assert not browser.find_element("id", "flicker").is_displayed()
