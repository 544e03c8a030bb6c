# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The ablation of the measure's parts: settings of each cell of the table, and its figures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monai_locor.registration import RegistrationConfig

from .cases import TWO_ITERATIONS, measure_here, scripts, write_blob_case

pytest.importorskip("scipy")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return scripts(monkeypatch, "ablation", "_compare", "registration")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_blob_case(tmp_path / "cases" / "blob")


def test_every_cell_is_a_setting(modules, case):
    options = modules.ablation.parse([str(case.parent), "--derivatives", "none", "basis", "both", "--preset", "fast"])
    chosen = modules.ablation.variants(options)
    assert len({v.name for v in chosen}) == len(chosen) == 12
    for variant in chosen:
        config = RegistrationConfig.of(variant.settings(options))
        assert (config.form, config.basis, config.derivative) == (variant.form, variant.basis, variant.derivative)
        assert config.stages == RegistrationConfig.of("fast").stages
    default = RegistrationConfig.of({"preset": "fast", "intersubject": "never"})  # the form that is said is the form
    assert sum(RegistrationConfig.of(v.settings(options)) == default for v in chosen) == 1
    assert len(modules.ablation.variants(modules.ablation.parse([str(case.parent)]))) == 8


def test_settings_of_variants(modules, case, tmp_path, capsys):
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps({"log-polynomial-none": {"bending_weight": 7, "similarity_options": {"degree": 5}}}))
    options = modules.ablation.parse([str(case.parent), "--settings", str(path)])
    told = {v.name: v.settings(options) for v in modules.ablation.variants(options)}
    assert told["log-polynomial-none"]["bending_weight"] == 7 and told["log-polynomial-basis"]["bending_weight"] is None
    for wrong in ({"log-spline-none": {}}, {"log-learned-none": {"num_bases": 3}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(SystemExit):
            modules.ablation.parse([str(case.parent), "--settings", str(path)])
    told = capsys.readouterr().err
    assert "no variant log-spline-none" in told and "unknown settings: num_bases" in told


def run_of(case: str, name: str, seed: int, tre_mm: float | None) -> dict[str, Any]:
    numbers = {"problem": "more than 1 s"} if tre_mm is None else {"problem": "", "tre_mm": tre_mm}
    return {"case": case, "tool": "monai_locor", "preset": name, "seed": seed, **numbers}


def test_mean_and_deviation_over_the_seeds(modules):
    ablation, measure = modules.ablation, modules.compare.MEASURES[0]
    learned, fixed = (ablation.Variant("log", basis, "none") for basis in ("learned", "polynomial"))
    numbers = {("a", learned): [1.0, 2.0, 3.0], ("a", fixed): [2.5, 2.5, None]}
    numbers |= {("b", learned): [2.0] * 3, ("b", fixed): [1.0] * 3}
    runs = [run_of(case, v.name, seed, x) for (case, v), values in numbers.items() for seed, x in enumerate(values)]
    record = {"runs": runs, "nothing": {"a": {"tre_mm": 10.0}, "b": {"tre_mm": 10.0}}}
    found = ablation.spread(record, measure)
    assert found[learned.name]["a"] == {"mean": 2.0, "deviation": 1.0}
    assert found[fixed.name]["a"]["mean"] == pytest.approx(5.0)  # the run that failed counts as zero displacement
    assert ablation.learned_wins(record, measure, [learned, fixed]) == [("log", "none", 1, 2)]
    lines = ablation.table(record, measure, [learned, fixed]).splitlines()
    assert "| log | learned | no derivative | 2.000 ± 1.000 | 2.000 ± 0.000 | 2.000 |" in lines
    assert lines[0].endswith("| a | b | mean of cases |") and "3.000 |" in lines[3]
    first, second, mean, failed = ablation.figures(record, [learned, fixed])[:4]
    cell = {"form": "log", "basis": "learned", "derivative": "none", "problem": ""}
    assert first == {"case": "a", **cell, "tre_mm": 2.0, "tre_sd_mm": 1.0}
    assert second == {"case": "b", **cell, "tre_mm": 2.0, "tre_sd_mm": 0.0}
    assert mean == {"case": "mean", **cell, "tre_mm": 2.0}
    assert failed["case"] == "a" and failed["basis"] == "polynomial" and failed["problem"]


def test_the_script_alternates_resumes_and_draws(modules, case, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    ablation, seen, path = modules.ablation, [], tmp_path / "runs.json"

    def attempt(job, out, options):
        seen.append((json.loads(Path(job.preset).read_text())["form"], job.seed))
        return run_of(job.case.name, job.label, job.seed, len(seen))

    monkeypatch.setattr(ablation, "attempt", attempt)
    common = [str(case.parent), "--bases", "learned", "--derivatives", "basis", "--json", str(path)]
    ablation.main([*common, "--seeds", "0"])
    ablation.main([*common, "--seeds", "0", "1", "--resume", "--plot", str(tmp_path / "a.png")])
    assert seen == [("log", 0), ("normalized", 0), ("log", 1), ("normalized", 1)]
    out = capsys.readouterr().out
    assert "| log | learned | derivative | 2.000 ± 1.414 |" in out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="other log-learned-basis"):
        ablation.main([*common, "--preset", "fast", "--resume"])
    content = json.loads(path.read_text())
    assert len(content["runs"]) == 4 and [row["form"] for row in content["figures"]] == ["log", "normalized"]


@pytest.mark.slow
def test_a_tiny_case(modules, case, tmp_path, monkeypatch, capsys):
    specs = measure_here(monkeypatch, modules.registration)
    preset = tmp_path / "two.json"
    preset.write_text(json.dumps(TWO_ITERATIONS))
    told = ["--preset", str(preset), "--seeds", "0", "--threads", "1", "--forms", "log", "--derivatives", "basis"]
    modules.ablation.main([str(case.parent), *told])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| log |")]
    assert len(rows) == len(specs) == 2 and "learned basis better in" in "".join(lines)
    assert not any("failed" in line for line in lines)
