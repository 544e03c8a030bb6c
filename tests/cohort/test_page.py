# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The summary page of a cohort: its content, and its controls in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monai_locor.cohort import CohortPair
from monai_locor.cohort.folder import CohortFolder
from monai_locor.cohort.page import write_page
from monai_locor.cohort.summary import summary_row
from monai_locor.cohort.work import Outcome

from ..report.browsing import BROWSER, DRIVER, FLAGS, webdriver

EVIL = '<script>alert(1)</script>"&'
VERDICTS = ("PASS", "WARN", "FAIL")
ROWS = 2000
JPEG = bytes.fromhex(  # 2 x 2 pixels
    "ffd8ffe000104a46494600010100000100010000ffdb004300"
    + "08" * 64
    + "ffc0000b080002000201011100ffc40014000100000000000000000000"
    "000000000009ffc40014100100000000000000000000000000000000ffda0008010100003f0054dfffd9"
)


def record(number: int) -> dict[str, Any]:
    """What ``pair.json`` has of a pair."""
    status = VERDICTS[number % 3]
    reasons = [] if status == "PASS" else [{"check": f"check {EVIL}", "status": status}]
    measures = {"nmi_before": 1.1, "nmi_after": 1.2}
    result = {
        "seconds": float(number % 97),
        "verdict": {"status": status, "reasons": reasons, "measures": measures},
        "jacobian": {"folding_percent": number / 10, "min": 0.5, "max": 2.0},
        "displacement_mm": {"mean": 10.0 / (number + 1), "max": 20.0},
    }
    return {"result": result, "attempts": 1, "host": "here"}


def rows_of(number: int) -> list[dict[str, Any]]:
    """Rows of a table, every tenth one failed."""
    rows = []
    for n in range(number):
        pair = CohortPair(f"pair-{n}", f"/data/{EVIL}/{n}.nii", f"/data/m{n}.nii")
        rows.append(summary_row(pair, Outcome(error=f"odd {EVIL}") if n % 10 == 9 else Outcome(record(n))))
    return rows


def test_names_are_escaped_and_nothing_is_loaded(tmp_path):
    folder = CohortFolder(tmp_path)
    done = folder.pair("pair-0")
    done.mkdir(parents=True)
    (done / "thumbnail.jpg").write_bytes(JPEG)
    (done / "report.html").write_text("")
    text = write_page(folder, rows_of(10)).read_text(encoding="utf-8")
    assert EVIL not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;") == 17  # 10 files, 7 texts
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', text) == ["pairs/pair-0/report.html"]
    assert "default-src 'none'" in text and text.count("<tr ") == 10 and text.count("data:image/jpeg") == 1
    assert "Dice" not in text  # no pair has labels
    assert not re.search(r"\$\w+", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("outcome", [Outcome(error="odd"), Outcome()], ids=["failed", "waiting"])
def test_results_of_an_earlier_run_are_not_those_of_this_one(tmp_path, outcome):
    folder = CohortFolder(tmp_path)
    folder.pair("a").mkdir(parents=True)
    (folder.pair("a") / "thumbnail.jpg").write_bytes(JPEG)
    (folder.pair("a") / "report.html").write_text("")
    pair = CohortPair("a", "f.nii", "m.nii")
    texts = [write_page(folder, [summary_row(pair, each)]).read_text("utf-8") for each in (outcome, Outcome(record(0)))]
    assert [("data:image/jpeg" in text, "pairs/a/report.html" in text) for text in texts] == [(False, False), (True, True)]


def test_what_drove_a_registration_has_columns(tmp_path):
    known = record(0)
    known["result"] |= {"landmarks_mm": {"count": 2, "before": {"mean": 3.21}, "after": {"mean": 0.456}}}
    known["result"] |= {"label_dice": {"labels": [4], "before": {"mean": 0.5}, "after": {"mean": None}}}
    row = summary_row(CohortPair("a", "f.nii", "m.nii"), Outcome(known))
    assert (row["landmarks_before_mm"], row["landmarks_after_mm"]) == (3.21, 0.456)
    assert (row["driving_dice_before"], row["driving_dice_after"], row["dice_before"]) == (0.5, "", "")
    text = write_page(CohortFolder(tmp_path), [row]).read_text(encoding="utf-8")
    assert "landmarks after, mm" in text and 'data-value="0.456"' in text
    assert "Dice of driving labels before" in text and "Dice before" not in text


def test_an_empty_value_is_an_empty_cell(tmp_path):
    row = summary_row(CohortPair("a", "f.nii", "m.nii"), Outcome())
    text = write_page(CohortFolder(tmp_path), [row]).read_text(encoding="utf-8")
    assert "WAITING" in text and text.count('data-value=""></td>') == 6


browser_only = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page of 2,000 pairs, each with a thumbnail."""
    folder, rows = CohortFolder(tmp_path_factory.mktemp("cohort")), rows_of(ROWS)
    for row in rows:
        folder.pair(row["id"]).mkdir(parents=True)
        (folder.pair(row["id"]) / "thumbnail.jpg").write_bytes(JPEG)
    return write_page(folder, rows)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, "--window-size=1280,900", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page) -> Any:
    browser.get(page.as_uri())
    return browser


def shown(browser: Any, cell: int = 1) -> list[str]:
    script = "return [...document.querySelectorAll('#pairs tbody tr')].filter(r => !r.hidden).map(r => r.cells[%d].%s)"
    return browser.execute_script(script % (cell, "textContent"))


def head(browser: Any, name: str) -> Any:
    return browser.find_element("css selector", f"th[data-column={name}] button")


class TestInABrowser:
    pytestmark = browser_only

    def test_columns_are_sorted(self, opened):
        assert shown(opened)[:3] == ["pair-0", "pair-1", "pair-2"] and len(shown(opened)) == ROWS
        head(opened, "seconds").click()
        values = [float(text) for text in shown(opened, 3) if text]
        assert values == sorted(values) and shown(opened, 3)[-1] == ""  # failed pairs have no number
        head(opened, "seconds").click()
        assert [float(text) for text in shown(opened, 3) if text] == values[::-1] and shown(opened, 3)[-1] == ""
        head(opened, "id").click()
        assert shown(opened)[:3] == ["pair-0", "pair-1", "pair-2"]  # 2 before 10
        head(opened, "verdict").click()
        levels = [text.split("check")[0].split("odd")[0] for text in shown(opened, 2)]
        assert levels == sorted(levels, key=["FAILED", "FAIL", "WARN", "PASS"].index)

    def test_rows_are_filtered(self, opened):
        opened.find_element("css selector", "input[value=PASS]").click()
        levels = {text.split("check")[0].split("odd")[0] for text in shown(opened, 2)}
        assert levels == {"FAILED", "FAIL", "WARN"}
        opened.find_element("id", "search").send_keys("pair-1999")
        assert shown(opened) == ["pair-1999"]
        assert opened.find_element("id", "shown").text == f"1 of {ROWS}"
        assert opened.find_element("css selector", "#pairs tbody").size["height"] < 200  # the others take no room

    def test_thumbnails_are_drawn_and_nothing_is_asked_of_the_network(self, opened, page):
        for log in ("performance", "browser"):
            opened.get_log(log)
        opened.get(page.as_uri())
        widths = opened.execute_script("return [...document.images].slice(0, 5).map(i => i.complete ? i.naturalWidth : 0)")
        assert widths == [2] * 5
        messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert [url[:80] for url in asked if url != page.as_uri() and not url.startswith("data:")] == []
        assert opened.get_log("browser") == []

    @pytest.mark.parametrize("width", [1280, 400])
    def test_nothing_is_cut_off(self, opened, width):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
