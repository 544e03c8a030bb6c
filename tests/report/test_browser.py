# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""The report in a browser: its controls change the pictures, everything is shown, and nothing is asked of the network."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monai_locor.report import write_report

from .made import GRID
from .test_html import EVIL, result_of

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", result_of(GRID), title=EVIL)


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    size(driver, 1280)
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def opened(browser, page) -> None:
    size(browser, 1280)
    browser.get(page.as_uri())


def size(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def seen(browser: Any, selector: str = ".views") -> bytes:
    """What an element looks like."""
    box = browser.execute_script(
        "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height, scale: 1}",
        selector,
    )
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": box})
    return base64.b64decode(shot["data"])


def press(browser: Any, selector: str, *keys: str) -> None:
    browser.find_element("css selector", selector).send_keys(*keys)


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
    for mode in ("blend", "curtain", "board", "side"):
        choose(browser, mode)
        looks.append(seen(browser))
    assert len(set(looks)) == 4
    assert not browser.find_element("id", "mix").is_enabled()  # side by side there is nothing to mix
    choose(browser, "board")
    press(browser, "#mix", webdriver.Keys.END)  # the size of the squares
    assert seen(browser) != looks[2]


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
    browser.get_log("performance")
    browser.get(page.as_uri())
    for mode in ("curtain", "board", "side", "blend"):
        choose(browser, mode)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert [url[:80] for url in asked if url != page.as_uri() and not url.startswith("data:")] == []
    assert browser.get_log("browser") == []
    assert "alert(1)" in browser.find_element("tag name", "h1").text  # a name, not a script


def test_dark_and_light(browser):
    light = seen(browser, "#verdict")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    dark = seen(browser, "#verdict")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert dark != light
