# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The report for everyone: landmarks, headings, names of controls, text alternatives, contrast of the colors."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from monai_locor.report import write_report
from monai_locor.report.html.assets import asset, script, style

from .results import GRID, GRID_2D
from .test_html import VOID, result_of
from .test_labels import blocks

pytest.importorskip("matplotlib")

CONTROLS = ("button", "input", "select", "canvas")


class Tree(HTMLParser):
    """All elements in order, each with its attributes, the tags it lies in, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[dict] = []
        self.open: list[dict] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        element = {"tag": tag, "within": [e["tag"] for e in self.open], "parents": list(self.open), "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1]["tag"] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, *tags: str) -> list[dict]:
        return [element for element in self.elements if element["tag"] in tags]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Tree:
    labels = {"fixed_labels": blocks(GRID), "moving_labels": blocks(GRID, 6)}
    path = tmp_path_factory.mktemp("report") / "report.html"
    return Tree(
        write_report(path, result_of(GRID), fixed_mask=blocks(GRID, 8), residuals=False, **labels).read_text(encoding="utf-8")
    )


def test_landmarks_are_named(page):
    assert [len(page.all(tag)) for tag in ("header", "main", "footer", "nav")] == [1, 1, 1, 1]
    assert page.all("html")[0]["lang"] == "en" and page.all("nav")[0]["aria-label"]
    ids = {e["id"]: e for e in page.elements if "id" in e}
    sections = page.all("section")
    assert len(sections) > 6 and all(ids[s["aria-labelledby"]]["text"].strip() for s in sections)
    assert len(ids) == sum("id" in e for e in page.elements)  # none twice
    links = [a["href"].removeprefix("#") for a in page.all("a")]
    assert len(links) > 6 and set(links) <= ids.keys()


def test_headings_follow_each_other(page):
    levels = [int(e["tag"][1]) for e in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_most_important_parts_come_first(page):
    order = [s["id"] for s in page.all("section") if "id" in s]
    assert order[:3] == ["verdict", "images", "checks"]
    places = [e for e in page.elements if "places" in (e.get("class") or "").split()]
    assert len(places) == 1 and "images" in [e.get("id") for e in places[0]["parents"]]


def test_pictures_have_alternatives(page):
    assert all(image.get("alt") for image in page.all("img"))
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and drawing["aria-label"]), drawing


def test_every_control_has_a_name(page):
    controls = page.all(*CONTROLS)
    assert len(controls) > 20
    for control in controls:
        label = next((parent["text"] for parent in control["parents"] if parent["tag"] == "label"), "")
        assert (control.get("aria-label") or label or control["text"]).strip(), control
    for group in page.all("fieldset"):
        assert any(e["tag"] == "legend" and e["text"] and group in e["parents"] for e in page.elements)


def test_cells_know_their_headings(page):
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))


def test_places_are_buttons_with_position_and_reason(page):
    buttons = [e for e in page.all("button") if e.get("class") == "place"]
    assert 0 < len(buttons) <= 5
    for number, button in enumerate(buttons, 1):
        assert button["data-place"] == button["aria-keyshortcuts"] == str(number)
        assert re.search(r"[\d.]+, −?[\d.]+, −?[\d.]+ RAS mm · voxel \d+, \d+, \d+$", button["text"].strip()), button["text"]


def test_shortcuts_are_listed(page):
    listed = {e["text"].lower() for e in page.all("kbd")}
    used = re.search(r"const modes = \{([^}]*)\}.*?const boxes = \{([^}]*)\}.*?const keys = \{(.*?)\};", script(), re.DOTALL)
    keys = set(re.findall(r"(?:^|[{,]) *\"?([a-z+-])\"?:", ",".join(used.groups())))
    assert len(keys) == 13 and {key.replace("-", "−") for key in keys} <= listed


def test_nothing_doubtful_leaves_no_empty_box(tmp_path):
    from .results import aligned, result_with

    text = write_report(tmp_path / "a.html", result_with(*aligned(GRID_2D)), residuals=False).read_text(encoding="utf-8")
    assert "Where to look" not in text and 'class="places"' not in text


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2)."""
    digits = color[1:] if len(color) == 7 else "".join(2 * d for d in color[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_background(theme):
    colors = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", asset("report.css"), re.DOTALL)[theme]))
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("page", "card", "well")]
    pairs += [(level, ground) for level in ("pass", "warn", "fail") for ground in (f"{level}-soft", "card")]
    pairs += [("card", "accent")]
    for pair in pairs:
        light, dark = sorted((luminance(colors[name]) for name in pair), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair


def test_focus_is_visible():
    assert re.search(r":focus-visible \{ outline: [2-9]px solid", style())
    assert "outline: none" not in style() and "outline: 0" not in style()
