# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Lists of names in the pages are complete: settings, presets, measures, checks, extras, options, files, targets."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from monai_locor.cohort.pairs import CohortPair
from monai_locor.quality import Thresholds
from monai_locor.registration import PRESETS, RegistrationConfig, Stage
from monai_locor.registration.measures import SIMILARITIES
from monai_locor.report.html.explanations import CHECKS

from .scripts import ROOT, module_of

BUNDLE = ROOT / "bundles/locor_registration"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def part(name: str, start: str, end: str = "\n\n") -> str:
    """Text of a page between two others, of which the first occurs once."""
    _, after = page(name).split(start)
    return after.split(end)[0]


def quoted(text: str) -> set[str]:
    return {*re.findall(r"`([^`\s]+)`", text)}


def rows(text: str) -> list[str]:
    """First cells of the rows of a table."""
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|") and not line.startswith("| ---")]


def names(kind: type) -> set[str]:
    return {item.name for item in dataclasses.fields(kind)}


def test_all_settings_have_a_topic():
    table = part("docs/guide/settings.md", "## Settings by topic", "\n##")
    assert names(RegistrationConfig) | names(Stage) <= quoted(table)
    assert not quoted(table) - names(RegistrationConfig) - names(Stage), "not a setting"


def test_presets_are_listed():
    assert {*rows(part("docs/guide/settings.md", "## Presets\n\n"))[1:]} == {f"`{name}`" for name in PRESETS}
    assert {*PRESETS} <= quoted(part("bundles/locor_registration/docs/README.md", "| `--preset` | `default` |", "\n"))


def test_the_steps_of_presets_are_those_of_the_code():
    stages = [PRESETS[name].stages for name in ("default", "fast", "draft")]
    table = page("docs/guide/concepts.md").split("| steps of `default` |")[1]
    for line, same in zip(table.splitlines()[2:], zip(*stages, strict=True), strict=False):
        words = "affine" if same[0].spacing is None else "deformable", same[0].factor, same[0].spacing or ""
        assert [cell.strip() for cell in line.split("|")[1:-1]] == [str(w) for w in (*words, *(s.iterations for s in same))]
    settings = page("docs/guide/settings.md")
    for name, each in zip(("default", "fast", "draft"), stages, strict=True):
        number, last = sum(s.iterations for s in each), each[-1].iterations
        assert f"| `{name}` | {number} steps, {last} of them at full resolution |" in settings


def test_measures_are_listed():
    assert {*SIMILARITIES} <= quoted("".join(rows(page("docs/guide/measures.md"))))
    assert {*SIMILARITIES} <= quoted(part("bundles/locor_registration/docs/README.md", "| as the preset says | measure:", "\n"))


def test_the_checks_of_the_verdict_are_listed():
    assert {*rows(part("docs/guide/report.md", "## Checks\n\n"))[1:]} == {*CHECKS}


def test_thresholds_in_examples_exist():
    example = re.search(r"with a file such as `(\{.*\})`", page("docs/guide/report.md"))
    assert example is not None and Thresholds.of(json.loads(example[1]))


def test_columns_of_a_list_of_pairs_are_listed():
    text = part("docs/guide/cohorts.md", "## The list of pairs", "**JSON.**")
    assert names(CohortPair) <= quoted(text)


def test_extras_are_listed():
    text = page("pyproject.toml").split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = re.findall(r"^(\w+) = ", text, re.MULTILINE)
    assert rows(part("docs/index.md", "Extras:\n\n"))[1:] == [f"`{name}`" for name in extras]


def test_the_index_of_the_api_is_complete():
    pages = {path.name for path in (ROOT / "docs/api").glob("*.md")} - {"index.md"}
    assert {*re.findall(r"\]\((\w+\.md)\)", page("docs/api/index.md"))} == pages


def test_benchmarks_have_a_section():
    sections = {*re.findall(r"^## (\w+)$", page("benchmarks/README.md"), re.MULTILINE)}
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")} - {"current", "gpu_cases"}  # named in the text
    assert sections == scripts


@pytest.mark.parametrize(("config", "heading"), [("inference", "Additional Usage Steps"), ("train", "Training")])
def test_options_of_the_bundle_exist_and_have_these_defaults(config, heading):
    content = json.loads((BUNDLE / f"configs/{config}.json").read_text(encoding="utf-8"))
    table = part("bundles/locor_registration/docs/README.md", f"## **{heading}**", "\n## ")
    lines = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `--")]
    assert len(lines) > 10
    for options, defaults in lines:
        found = [name.removeprefix("--") for name in re.findall(r"`(--\w+)", options)]
        assert all(name in content for name in found), options
        values, given = [content[name] for name in found], re.findall(r"`([^`]+)`", defaults)
        plain = all(isinstance(value, bool | int | float) for value in values)
        assert not plain or "off" in defaults or [json.loads(text) for text in given] == values, options


def test_targets_of_make_exist():
    targets = {*re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE)}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"]
    for text in (path.read_text(encoding="utf-8") for path in pages):
        code = re.findall(r"```bash\n.*?```|`[^`]+`", text, re.DOTALL) if "make " in text else []
        named = re.findall(r"(?:`|\n)make((?: [a-z-]+)+)", " ".join(code))
        assert {name for words in named for name in words.split()} <= targets


def test_files_with_the_version_are_listed():
    release = module_of("packaging/release.py")
    step = part("CONTRIBUTING.md", "1. Set the version", "\n2.")
    assert all(Path(name).name in step for name in release.versions())
