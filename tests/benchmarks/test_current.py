# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The script that takes measured figures into ``results/current.json``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "current.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("current", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_failed_runs_are_refused(script):
    with pytest.raises(ValueError, match="out of memory"):
        script.section_of("registration", measured(problem="out of memory"))


def test_the_file_is_written_as_the_script_would(script):
    assert script.CURRENT.read_text(encoding="utf-8") == script.dump(json.loads(script.CURRENT.read_text(encoding="utf-8")))


def test_every_section_has_a_page(script):
    pages = {page for _, page in script.SOURCES.values()}
    assert all((script.CURRENT.parent / page).is_file() for page in pages)
