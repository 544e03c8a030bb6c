# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The report in a browser: its controls change the pictures, everything is shown, and nothing is asked of the network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monai_locor.report import write_report

from .browsing import NEEDS_BROWSER, browser_in, press, seen, size, wait, webdriver
from .results import GRID, GRID_2D
from .test_html import EVIL, result_of
from .test_labels import blocks

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    labels = {"fixed_labels": blocks(GRID), "moving_labels": blocks(GRID, 6)}
    mask = blocks(GRID, 8)
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, result_of(GRID), title=EVIL, fixed_mask=mask, moving_mask=mask, **labels)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    with browser_in(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(autouse=True)
def opened(browser, page) -> None:
    size(browser, 1280)
    browser.get(page.as_uri())
    wait(browser)
    browser.execute_script("document.getElementById('more').open = true")


def choose(browser: Any, value: str) -> None:
    browser.find_element("css selector", f'input[value="{value}"] + span').click()


def test_the_slider_changes_the_picture(browser):
    keys = webdriver.Keys
    for pair in ("fixed after", "before after", "fixed before"):
        choose(browser, pair)
        press(browser, "#mix", keys.HOME)
        first = seen(browser)
        press(browser, "#mix", keys.END)
        last = seen(browser)
        press(browser, "#mix", keys.HOME)
        assert first != last and seen(browser) == first


def test_every_way_of_comparing_looks_different(browser):
    looks = []
    choose(browser, "curtain")
    for mode in ("blend", "curtain", "board", "side"):
        choose(browser, mode)
        looks.append(seen(browser))
    assert len(set(looks)) == 4
    assert not browser.find_element("id", "mix").is_enabled()  # side by side there is nothing to mix
    choose(browser, "board")
    press(browser, "#mix", webdriver.Keys.END)  # the size of the squares
    assert seen(browser) != looks[2]


def drawn(browser: Any) -> list[int]:
    """Pixels of the first view, RGBA in turn, once it has been drawn."""
    seen(browser)
    return pixels_of(browser)


def pixels_of(browser: Any) -> list[int]:
    """Pixels of the first view, RGBA in turn."""
    script = (
        "const c = document.querySelector('.view canvas');"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    return browser.execute_script(script)


def colored(pixels: list[int], color: tuple[int, int, int]) -> int:
    """How many pixels are of about this color."""
    channels = (pixels[i::4] for i in range(3))
    return sum(all(abs(v - c) < 30 for v, c in zip(pixel, color, strict=True)) for pixel in zip(*channels, strict=True))


ORANGE, BLUE, PINK = (255, 176, 0), (57, 197, 255), (255, 111, 216)


def test_it_opens_with_the_warped_image_and_contours_of_the_fixed_one(browser):
    assert colored(drawn(browser), ORANGE) > 20
    for box in ("contours", "masks"):
        browser.find_element("id", box).click()
    opened = drawn(browser)
    assert colored(opened, ORANGE) == 0
    choose(browser, "before after")  # whose last picture is the warped one, too
    assert drawn(browser) == opened


def test_masks_and_labels_are_outlined(browser):
    browser.find_element("id", "contours").click()
    pixels = drawn(browser)
    assert colored(pixels, BLUE) > 20 and colored(pixels, PINK) > 10
    browser.find_element("id", "masks").click()
    pixels = drawn(browser)
    assert colored(pixels, BLUE) == colored(pixels, PINK) == 0
    told = browser.find_element("id", "readout").text
    colors = json.loads(browser.find_element("css selector", "[data-name=labels-0-warped]").get_attribute("data-colors"))
    press(browser, "#labels", webdriver.Keys.END)
    pixels = drawn(browser)
    assert re.search(r"; label (none|\d+) \(fixed\), (none|\d+) \(warped\)$", browser.find_element("id", "readout").text)
    assert "label" not in told
    for color in colors:
        assert colored(pixels, tuple(bytes.fromhex(color[1:]))) > 20


def test_every_slice_can_be_reached(browser):
    for view, count in zip(browser.find_elements("css selector", ".view"), (26, 28, 32), strict=True):
        slider = view.find_element("css selector", ".slice")
        for key, number in ((webdriver.Keys.HOME, 1), (webdriver.Keys.END, count)):
            slider.send_keys(key)
            seen(browser)
            assert view.find_element("css selector", "output").text.endswith(f"slice {number} of {count}")


def test_a_click_moves_the_other_views(browser):
    axial, coronal, _ = browser.find_elements("css selector", ".view")
    canvas = axial.find_element("css selector", "canvas")
    high = canvas.size["height"]
    for share, place in ((0.02, 28), (0.98, 1)):  # anterior is at the top
        webdriver.ActionChains(browser).move_to_element_with_offset(canvas, 0, round((share - 0.5) * high)).click().perform()
        seen(browser)
        assert coronal.find_element("css selector", "output").text.endswith(f"slice {place} of 28")


def test_window_and_zoom_change_the_picture_and_reset_brings_it_back(browser):
    first = seen(browser)
    for control, key in (("window", webdriver.Keys.HOME), ("level", webdriver.Keys.END), ("zoom", webdriver.Keys.END)):
        browser.execute_script("document.getElementById('window-of').value = 'moving'")
        press(browser, f"#{control}", key)
        assert seen(browser) != first
        browser.find_element("id", "reset").click()
        assert seen(browser) == first
    canvas = browser.find_element("css selector", ".view canvas")
    press(browser, "#zoom", webdriver.Keys.END)
    before = seen(browser)
    webdriver.ActionChains(browser).click_and_hold(canvas).move_by_offset(60, 40).release().perform()
    assert seen(browser) != before


def test_the_wheel_goes_through_the_slices(browser):
    view = browser.find_element("css selector", ".view")
    before = view.find_element("css selector", "output").text
    origin = webdriver.common.actions.wheel_input.ScrollOrigin.from_element(view.find_element("css selector", "canvas"))
    webdriver.ActionChains(browser).scroll_from_origin(origin, 0, 100).perform()
    seen(browser)
    assert view.find_element("css selector", "output").text != before


def test_slices_and_contours(browser):
    keys, before = webdriver.Keys, seen(browser)
    place = browser.find_element("css selector", ".view output").text
    press(browser, ".view .slice", keys.END)
    assert seen(browser) != before and browser.find_element("css selector", ".view output").text != place
    after = seen(browser)
    browser.find_element("id", "contours").click()
    assert seen(browser) != after


def test_flicker_turns_on_and_off(browser):
    button = browser.find_element("id", "flicker")
    button.click()
    values = set()
    for _ in range(40):
        values.add(browser.execute_async_script("setTimeout(() => arguments[0](document.getElementById('mix').value), 50)"))
    button.click()
    assert {"0", "100"} <= values and button.get_attribute("aria-pressed") == "false"


def test_every_picture_is_shown(browser):
    widths = browser.execute_script("return [...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert len(widths) > 15 and min(widths) > 10


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut_off(browser, width):
    size(browser, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = browser.execute_script(
        "return [...document.querySelectorAll('.card *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 "
        "&& !e.closest('.scroll, .wide, .stage, .map')).map(e => e.outerHTML.slice(0, 99))"
    )
    assert outside == []


def test_nothing_is_asked_of_the_network_and_no_script_fails(browser, page):
    for log in ("performance", "browser"):
        browser.get_log(log)
    browser.get(page.as_uri())
    wait(browser)
    for mode in ("curtain", "board", "side", "blend"):
        choose(browser, mode)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert [url[:80] for url in asked if url != page.as_uri() and not url.startswith("data:")] == []
    assert browser.get_log("browser") == []
    assert "alert(1)" in browser.find_element("tag name", "h1").text  # a name, not a script


def test_two_dimensions(browser, tmp_path):
    browser.get_log("browser")
    browser.get(write_report(tmp_path / "flat.html", result_of(GRID_2D)).as_uri())
    wait(browser)
    browser.execute_script("document.getElementById('more').open = true")
    assert len(set(drawn(browser)[::4])) > 20 and browser.get_log("browser") == []
    assert browser.find_element("id", "reset").is_displayed()
    assert not browser.find_element("id", "cross").is_displayed() and not browser.find_element("id", "masks").is_displayed()


def test_dark_and_light(browser):
    light = seen(browser, "#verdict")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    dark = seen(browser, "#verdict")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert dark != light
