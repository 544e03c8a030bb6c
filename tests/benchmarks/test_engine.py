# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The scripts that measure the engine: scaling, ablation, the estimate for a GPU."""

from __future__ import annotations

import dataclasses
import json
from types import ModuleType

import pytest

from monai_locor.registration import RegistrationConfig

from .cases import measure_here, scripts


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Imports a script as the interpreter does when it runs it."""

    def load(name: str) -> ModuleType:
        return getattr(scripts(monkeypatch, name), name)

    return load


class TestScaling:
    def test_exponents_and_table(self, script):
        scaling = script("scaling")
        costs = {n: scaling.Measured((1e-6 * n**3,), (2e-6 * n**3,), 40 * n**4) for n in (16, 32, 64)}
        rows = [scaling.row_of((n,) * 3, "fast", cost) for n, cost in costs.items()]
        rows.append(scaling.row_of((99,) * 3, "fast", scaling.Measured(problem="does not fit in memory")))
        found = scaling.exponents(rows)["fast"]
        assert found["seconds"] == pytest.approx(1) and found["mib"] == pytest.approx(4 / 3)
        assert rows[0]["floats"] == pytest.approx(10 * 16)
        lines = scaling.table(rows).splitlines()
        assert len(lines) == 6 and "32 x 32 x 32" in lines[3] and "does not fit" in lines[-1]

    def test_sizes(self, script):
        scaling = script("scaling")
        assert scaling.shape_of("64") == (64, 64, 64) and scaling.shape_of("20x30x40") == (20, 30, 40)
        for wrong in ("20x30", "5"):
            with pytest.raises(scaling.argparse.ArgumentTypeError, match=wrong):
                scaling.shape_of(wrong)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:divide by zero")  # a second run in one process may need no more memory
    def test_the_script(self, script, tmp_path, monkeypatch, capsys):
        scaling, picture, numbers = script("scaling"), tmp_path / "out.png", tmp_path / "out.json"
        specs = measure_here(monkeypatch, scaling)
        short = RegistrationConfig.of("fast")
        short = dataclasses.replace(short, stages=short.stages[:2], multistart="never", intersubject="never")
        preset = tmp_path / "short.json"
        preset.write_text(json.dumps(short.to_dict()))
        words = ["--sizes", "16", "16x20x24", "--presets", str(preset), "--iterations", "1", "--threads", "1"]
        scaling.main([*words, "--plot", str(picture), "--json", str(numbers)])
        rows = json.loads(numbers.read_text())["rows"]
        assert [row["voxels"] for row in rows] == [16**3, 16 * 20 * 24] and not any(row["problem"] for row in rows)
        assert [(spec.function, spec.arguments["options"]["save"], spec.threads) for spec in specs] == [
            ("prepare", False, 1)
        ] * 2
        assert "short.json: time ~ voxels^" in capsys.readouterr().out and picture.read_bytes().startswith(b"\x89PNG")


class TestAblation:
    def test_every_variant_is_a_setting_that_differs_from_the_default(self, script):
        ablation = script("ablation_engine")
        default = RegistrationConfig()
        for name, settings in ablation.variants(default.to_dict()["stages"]).items():
            assert (RegistrationConfig.of(settings) == default) == (name == ablation.DEFAULT), name

    def test_table_is_relative_to_the_default_on_the_same_case(self, script):
        ablation = script("ablation_engine")
        row = {"tool": "monai_locor", "seeds": [0], "problem": "", "folding_voxels": 0}
        rows = [
            row | {"case": "a", "preset": "default", "tre_mm": 2.0, "tre_p95_mm": 4.0, "processor_seconds": 10.0},
            row | {"case": "a", "preset": "eps-1e-6", "tre_mm": 1.0, "tre_p95_mm": 5.0, "processor_seconds": 15.0},
            row | {"case": "b", "preset": "eps-1e-6", "tre_mm": 1.0, "tre_p95_mm": 5.0, "processor_seconds": 15.0},
            row | {"case": "b", "preset": "stride-2", "problem": "no"},
        ]
        lines = ablation.table(rows).splitlines()
        assert "| 0.50 | 1.25 | 0 | 1.50 |" in lines[3] and "0.50" not in lines[4] and "failed: no" in lines[5]
        runs = [{**each, "seed": 0} for each in rows]
        first, second, _, failed = ablation.figures(runs)
        assert first["variant"] == "default" and first["processor_seconds_ratio"] == 1 and failed["problem"] == "no"
        assert second["tre_mm"] == 1.0 and second["processor_seconds_ratio"] == 1.5


@pytest.mark.slow
def test_estimate_counts_and_sums(script, monkeypatch, capsys):
    estimate = script("estimate")
    monkeypatch.setattr(estimate.resampling, "BUDGET", dict(estimate.resampling.BUDGET))

    def table(*more: str) -> list[list[str]]:
        estimate.main(["--size", "16", "--preset", "fast", *more])
        return [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]

    rows = table()
    assert len(rows) == len(RegistrationConfig.of("fast").stages) + 1
    assert all(100 < int(row[3]) < 6000 for row in rows[:-1])
    assert float(rows[-1][-1]) == pytest.approx(sum(float(row[-1]) for row in rows[:-1]), abs=0.06)
    assert float(table("--launch-us", "60")[-1][-1]) == pytest.approx(10 * float(rows[-1][-1]), rel=0.1)
