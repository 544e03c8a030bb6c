# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The arena: stored runs, statistics, the choice of runs, and the page and the README that quote them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from .cases import BENCHMARKS, scripts

pytest.importorskip("scipy")
NAMES = ("arena", "_arena_records", "_arena_statistics", "_arena_page", "_peers")
REFERENCE = ("monai_locor", "default")


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield scripts(monkeypatch, *NAMES)


def settings_of(**changes: Any) -> dict[str, Any]:
    """Settings of two kinds of cases and three methods."""
    kinds = {
        "heads": {"measure": "tre_mm", "about": "Heads.", "cases": ["a", "b"]},
        "people": {"measure": "dice", "about": "People.", "cases": ["c"]},
    }
    methods = [
        {"tool": "monai_locor", "preset": "default", "seeds": [0, 1], "arguments": {}},
        {"tool": "greedy", "preset": "", "seeds": [0], "arguments": {}},
        {"tool": "convexadam", "preset": "", "seeds": [0], "arguments": {}, "not_for": ["people"]},
    ]
    quick = {"seconds": 10, "cases_per_kind": 1, "seeds": [0], "methods": ["greedy", "monai_locor default"]}
    told = {"bootstrap": {"samples": 200, "seed": 0}, "references": [["monai_locor", "default"]], "histology": {}}
    told |= {"threads": 1, "workers": 2, "limit_seconds": 60}
    return told | {"kinds": kinds, "methods": methods, "quick": quick} | changes


def run_of(case: str, method: tuple[str, str], seed: int = 0, problem: str = "", **numbers: float) -> dict[str, Any]:
    named = {"case": case, "tool": method[0], "preset": method[1], "seed": seed, "problem": problem}
    told = {"date": "2030-01-02", "processor": "Some CPU", "commit": "abc1234", "processor_seconds": 12.0}
    return named | ({} if problem else told) | {"date": "2030-01-02", "processor": "Some CPU"} | numbers


def filled(modules: SimpleNamespace, path: Path) -> Any:
    """Runs of two methods on three cases; greedy fails on one."""
    runs = modules.arena_records.Runs(path, "h1")
    nothing = (modules.arena_records.NOTHING, "")
    for run in (
        *(run_of(case, nothing, tre_mm=10.0) for case in "ab"),
        run_of("c", nothing, dice=0.2),
        run_of("a", REFERENCE, 0, tre_mm=1.0, left=0.1),
        run_of("a", REFERENCE, 1, tre_mm=3.0, left=0.3),
        run_of("b", REFERENCE, 0, tre_mm=4.0, left=0.4),
        run_of("c", REFERENCE, 0, dice=0.6, left=0.5),
        run_of("a", ("greedy", ""), tre_mm=4.0, left=0.4, folding_voxels=10, voxels=500, inverse_p95_vox=0.05),
        run_of("b", ("greedy", ""), problem="more than 1 s"),
    ):
        runs.add(run)
    return runs


# --- stored runs


def test_runs_are_kept_and_those_of_other_settings_are_not_mixed_in(modules, tmp_path):
    path, records = tmp_path / "runs.jsonl", modules.arena_records
    filled(modules, path)
    other = records.Runs(path, "h2")
    assert not list(other) and other.others == 9 and other.broken == 0
    other.add(run_of("a", REFERENCE, tre_mm=9.0))
    again = records.Runs(path, "h1")
    assert [run["tre_mm"] for run in again.of(*REFERENCE) if run["case"] == "a"] == [1.0, 3.0] and again.others == 1
    again.add(run_of("a", REFERENCE, tre_mm=2.0))  # repeated: replaces the first
    assert records.Runs(path, "h1").by_key[("a", *REFERENCE, 0)]["tre_mm"] == 2.0


@pytest.mark.parametrize("cut", [1, 20])
def test_a_run_that_was_cut_off_is_repeated_and_the_others_stay(modules, tmp_path, cut):
    path, records = tmp_path / "runs.jsonl", modules.arena_records
    filled(modules, path)
    path.write_bytes(path.read_bytes()[:-cut])  # killed while writing; a cut of one leaves a complete line without its end
    runs = records.Runs(path, "h1")
    assert (runs.broken, len(runs.by_key)) == ((0, 9) if cut == 1 else (1, 8))
    runs.add(run_of("c", ("greedy", ""), dice=0.5))
    again = records.Runs(path, "h1")
    assert len(again.by_key) == len(runs.by_key) and ("c", "greedy", "", 0) in again.by_key


def test_the_hash_depends_on_the_content_only(modules):
    hash_of, settings = modules.arena_records.hash_of, settings_of()
    assert hash_of(settings) == hash_of(dict(reversed(settings.items())))
    assert hash_of(settings) != hash_of(settings_of(limit_seconds=61))


def test_the_frozen_settings_are_those_of_the_adapters(modules, tmp_path):
    records = modules.arena_records
    settings = records.read_settings()  # refuses others
    assert {m["tool"] for m in settings["methods"]} - {*modules.peers.PEERS} == {
        "monai_locor",
        "ours:normalized_mutual_information",
        "ours:mind_ssc",
    }
    assert {*settings["quick"]["methods"]} <= {" ".join(filter(None, m)) for m in records.names_of_methods(settings)}
    assert {*settings["histology"]} == {*settings["kinds"]["Histology"]["cases"]}
    (greedy,) = [m for m in settings["methods"] if m["tool"] == "greedy"]
    greedy["arguments"]["affine"] = "-m NCC 4x4x4"
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ValueError, match="greedy has other settings"):
        records.read_settings(path)
    records.freeze(path)
    assert records.read_settings(path) == records.read_settings()


# --- statistics


def test_the_error_left_and_failures(modules):
    statistics = modules.arena_statistics
    assert statistics.error_left({"tre_mm": 1.0}, {"tre_mm": 4.0}, "tre_mm") == 0.25
    assert statistics.error_left({"dice": 0.9}, {"dice": 0.5}, "dice") == pytest.approx(0.2)
    assert statistics.error_left({}, {"dice": 0.5}, "dice") is None
    nothing = {case: {"tre_mm": 10.0} for case in "ab"}
    runs = [run_of("a", ("greedy", ""), tre_mm=4.0), run_of("b", ("greedy", ""), problem="more than 1 s")]
    found = statistics.errors_left(runs, nothing, ["a", "b"], "tre_mm")
    assert found == {("greedy", ""): {"a": [0.4], "b": [1.0]}}  # a failure counts as zero displacement


def test_intervals_cover_the_mean_and_shrink(modules):
    bootstrap = modules.arena_statistics.Bootstrap(500, 0)
    random, hits, widths = np.random.default_rng(0), 0, {}
    for cases in (8, 32):
        intervals = [bootstrap.interval({str(n): [v] for n, v in enumerate(random.normal(3, 1, cases))}) for _ in range(20)]
        widths[cases] = np.mean([high - low for low, high in intervals])
        hits += sum(low <= 3 <= high for low, high in intervals)
    assert 28 <= hits <= 40 and 1.5 < widths[8] / widths[32] < 2.5  # 95 % and a half, roughly
    assert bootstrap.interval({"a": [1.0, 2.0]}) is None  # of one case there is none
    low, high = bootstrap.interval({"a": [1.0], "b": [100.0]}, geometric=True)
    assert low == pytest.approx(1) and high == pytest.approx(100)
    assert bootstrap.interval({"a": [2.0, 4.0], "b": [3.0]})[0] < 3  # seeds are drawn as well


def test_paired_comparisons(modules):
    statistics = modules.arena_statistics
    bootstrap = statistics.Bootstrap(500, 0)
    reference = {str(n): [0.1 * (n + 1)] for n in range(8)}
    worse = {case: [2 * numbers[0]] for case, numbers in reference.items()}
    found = statistics.paired(worse, reference, bootstrap)
    assert found["ratio"] == pytest.approx(2) and found["interval"] == pytest.approx((2, 2))
    assert found["common"] == 8 and found["p"] == pytest.approx(2 / 2**8)  # the least that eight cases allow
    few = statistics.paired({case: worse[case] for case in "01"}, reference, bootstrap)
    assert few["common"] == 2 and "p" not in few
    same = statistics.paired(reference, reference, bootstrap)
    assert same["ratio"] == pytest.approx(1) and same["p"] == 1
    assert statistics.paired({"other": [1.0]}, reference, bootstrap) is None


def test_holm_s_correction(modules):
    holm = modules.arena_statistics.holm
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


# --- the choice of runs


def fake_cases(folder: Path) -> Path:
    """Cases of settings_of() as far as their choice depends on them; "b" is smaller than "a"."""
    from .cases import FIXED, save

    for name, size in (("a", 6), ("b", 4), ("c", 5)):
        save(folder / name / "fixed.nii.gz", np.zeros((size,) * 3, np.uint8), FIXED)
    return folder


def test_the_order_of_the_runs(modules, tmp_path):
    arena = modules.arena
    found = arena.jobs(settings_of(), fake_cases(tmp_path), quick=False)
    order = [(job.seed, job.case.name, job.tool) for job in found]
    assert order[:4] == [(0, "a", "monai_locor"), (0, "a", "greedy"), (0, "a", "convexadam"), (0, "b", "monai_locor")]
    assert (0, "c", "convexadam") not in order  # not for this kind
    assert order[-3:] == [(1, case, "monai_locor") for case in "abc"] and len(order) == 3 + 3 + 2 + 3
    quick = [(job.case.name, job.tool) for job in arena.jobs(settings_of(), tmp_path, quick=True)]
    assert quick == [(case, tool) for case in "bc" for tool in ("greedy", "monai_locor")]  # "b" is smaller than "a"


def test_the_readme_and_the_page_agree_with_the_stored_runs(modules):
    arena, records, texts = modules.arena, modules.arena_records, modules.arena_page
    settings = records.read_settings()
    runs = records.Runs(arena.RECORDS, records.hash_of(settings))
    readme = arena.README.read_text(encoding="utf-8")
    assert texts.with_summary(readme, settings, runs) == readme, "run benchmarks/arena.py"
    assert (BENCHMARKS / "results" / "arena.md").read_text(encoding="utf-8") == texts.page(settings, runs)
    start = readme.index("<!-- arena -->") + len("<!-- arena -->")
    assert texts.with_summary(readme[:start] + "\n\nedited" + readme[start:], settings, runs) == readme


def test_the_page_of_some_runs(modules, tmp_path):
    texts, settings = modules.arena_page, settings_of()
    runs = filled(modules, tmp_path / "runs.jsonl")
    (tmp_path / "runs-greedy.png").write_bytes(b"")
    page = texts.page(settings, runs)
    left = {"monai_locor default": (0.2 * 0.4 * 0.5) ** (1 / 3), "greedy": math.sqrt(0.4)}  # greedy failed on b
    rows = {row["method"]: row for row in texts.overall(settings, runs)}
    assert {name: row["left"] for name, row in rows.items()} == pytest.approx(left)
    assert list(rows) == ["monai_locor default", "greedy"] and rows["greedy"]["failed"] == 1
    assert rows["greedy"]["paired"]["ratio"] == pytest.approx(math.sqrt(0.4 / 0.2 * 1 / 0.4))
    lines = page.splitlines()
    (greedy,) = [line for line in lines if line.startswith("| `greedy` | 2/2 | 7.00 [4.00, 10.00] |")]
    assert greedy.endswith("| 2 | 0.05 | 4.00 | 10.00 |")  # folding, inverse consistency, both cases
    assert any(line.startswith("| no registration | 2/2 | 10.00 ") for line in lines)
    assert any(line.startswith("| `monai_locor default` | 2/2 ") and line.endswith("| **2.00** | **4.00** |") for line in lines)
    assert "| b | greedy | 0 | more than 1 s |" in lines and "Methods without runs: convexadam." in page
    assert "`c`, seed 0: Dice 0.600, without registration 0.200." in page  # the worst of ours: half of the error is left
    assert page.count("![") == 1 and "(runs-greedy.png)" in page


def test_an_interrupted_arena_has_a_valid_page(modules, tmp_path):
    texts, settings = modules.arena_page, settings_of()
    whole = filled(modules, tmp_path / "runs.jsonl")
    lines = whole.path.read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        whole.path.write_bytes(b"".join(lines[:count]) + b'{"settings": "h1", "ca')
        runs = modules.arena_records.Runs(whole.path, "h1")
        page = texts.page(settings, runs)
        widths = [line.count("|") for line in page.splitlines() if line.startswith("|")]
        assert "nan" not in page and (not widths or min(widths) >= 5)
        assert ("has not run yet" in texts.summary(settings, runs)) == (count <= 3)


def test_the_page_tells_errors_far_below_the_surface_where_they_are_known(modules, tmp_path):
    runs, page = filled(modules, tmp_path / "runs.jsonl"), modules.arena_page
    assert "deeper than" not in page.kind_table(settings_of(), runs, "heads")
    runs.add(run_of("b", REFERENCE, 1, tre_mm=4.0, left=0.4, tre_inner_mm=0.5, tre_inner_p95_mm=1.5))
    runs.add(run_of("a", REFERENCE, 0, tre_mm=4.0, left=0.4, tre_inner_mm=1.0, tre_inner_p95_mm=2.5))
    table = page.kind_table(settings_of(), runs, "heads")
    assert "deeper than 15 mm: mean, mm | 95 %, mm | of cases" in table
    lines = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert "| 0.75 | 2.00 | 2 |" in lines["`monai_locor default`"] and "|  |  |  |" in lines["`greedy`"]
