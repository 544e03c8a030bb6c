# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The script that takes measured figures into ``results/current.json``."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from ..scripts import module_of


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return module_of("benchmarks/current.py")


def measured(**row: object) -> dict:
    about = {"date": "2030-01-02", "processor": "Some CPU", "threads": 2, "commit": "abc1234"}
    return {"machine": about, "rows": [{"case": "head", "preset": "fast", "problem": "", "tre_mm": 0.123456} | row]}


def test_a_section_is_replaced_and_the_others_stay(script, tmp_path):
    current, out = tmp_path / "current.json", tmp_path / "out.json"
    old = {"registration": {"page": "registration.md", "rows": []}, "scaling": {"page": "scaling.md", "rows": [{"mib": 3.0}]}}
    current.write_text(script.dump(old))
    out.write_text(json.dumps(measured()))
    script.main(["registration", str(out), "--current", str(current)])
    new = json.loads(current.read_text())
    assert new["scaling"] == old["scaling"]
    head = {"page": "registration.md", "script": "registration.py", "date": "2030-01-02", "hardware": "Some CPU"}
    row = {"case": "head", "preset": "fast", "tre_mm": 0.1235}
    assert new["registration"] == {**head, "threads": 2, "commit": "abc1234", "rows": [row]}


def test_figures_replace_rows_and_seeds_are_single_runs(script):
    content = {**measured(), "figures": [{"case": "head", "form": "log", "tre_mm": 1.23456}]}
    assert script.section_of("ablation", content)["rows"] == [{"case": "head", "form": "log", "tre_mm": 1.2346}]
    runs = [{"case": "head", "tool": "t", "preset": "fast", "seed": k, "problem": "", "tre_mm": k, "dice": 1} for k in (0, 1)]
    rows = script.section_of("seeds", {**measured(), "runs": runs})["rows"]
    assert rows == [{"case": "head", "tool": "t", "preset": "fast", "seed": k, "tre_mm": k} for k in (0, 1)]


def test_means_of_subjects(script):
    rows = [{"case": c, "tool": t, "preset": "", "dice": d} for c, t, d in (("a", "x", 0.2), ("b", "x", 0.4), ("a", "y", 1.0))]
    found = script.section_of("intersubject", {**measured(), "rows": rows})["rows"]
    assert found[:3] == rows and [(row["tool"], row["dice"]) for row in found[3:]] == [("x", 0.3), ("y", 1.0)]


def test_failed_runs_are_refused(script):
    with pytest.raises(ValueError, match="out of memory"):
        script.section_of("registration", measured(problem="out of memory"))


def test_the_file_is_written_as_the_script_would(script):
    assert script.CURRENT.read_text(encoding="utf-8") == script.dump(json.loads(script.CURRENT.read_text(encoding="utf-8")))


def test_every_section_has_a_page(script):
    assert set(json.loads(script.CURRENT.read_text(encoding="utf-8"))) == set(script.SOURCES)
    pages = {page for _, page in script.SOURCES.values()}
    assert all((script.CURRENT.parent / page).is_file() for page in pages)
