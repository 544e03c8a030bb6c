# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The benchmark scripts run and print their tables."""

from __future__ import annotations

import json
import math
from types import ModuleType

import pytest

from .cases import measure_here, scripts


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The script `loss` and its helper, imported as the interpreter does when it runs the script."""
    found = scripts(monkeypatch, "loss", "_measure")
    return found.loss, found.measure


def test_table_and_ratios(modules):
    loss, helper = modules
    found = {name: {n: helper.Measured((n**3 * 1e-6,) * 3, bytes=n**3 * 100) for n in (8, 16, 32)} for name in loss.ROWS}
    found[loss.EAGER] = {n: helper.Measured((n**3 * 6e-6,) * 3, bytes=n**3 * 1000) for n in (8, 16, 32)}
    found[loss.ORIGINAL] = dict.fromkeys((8, 16, 32), helper.Measured(problem="not run (No module named 'locor')"))
    lines = loss.table(found, [8, 16, 32]).splitlines()
    assert len(lines) == 2 + len(loss.ROWS) and all(line.count("|") == 5 for line in lines)
    assert "0.00410 s" in lines[2] or "0.0041 s" in lines[2]
    assert lines[-1].count("not run") == 3
    rows = loss.figures(found, [8, 16, 32])
    assert len(rows) == 3 * (len(loss.ROWS) - 1) and not any(row["row"] == loss.ORIGINAL for row in rows)
    assert rows[0] == {"row": loss.OURS, "size": 8, "seconds": pytest.approx(5.12e-4), "mib": 0}
    compared = loss.ratios(found, [8, 16, 32])
    assert compared["16^3"] == pytest.approx(
        {
            f"time, {loss.EAGER} / {loss.OURS}": 6,
            f"memory, {loss.EAGER} / {loss.OURS}": 10,
            f"time, {loss.OURS} / {loss.LNCC}": 1,
        }
    )
    assert list(compared["exponent against voxels"].values()) == pytest.approx([1, 1])
    assert math.isnan(loss.exponent({}, lambda m: m.median))


@pytest.mark.slow
def test_a_row_that_cannot_run_names_the_reason(modules):
    _, helper = modules
    spec = helper.Spec("json", "dumps", {}, seconds=60)
    assert "no-such-python" in helper.measure(spec, "no-such-python").problem
    found = helper.measure(helper.Spec("no_such_module", "build", {}, threads=1))
    assert found.problem == "not run (No module named 'no_such_module')" and not found.seconds


@pytest.mark.slow
def test_the_script_at_a_small_size(modules, tmp_path, monkeypatch, capsys):
    loss, _ = modules
    specs = measure_here(monkeypatch, loss)
    loss.main(["--sizes", "16", "--repeats", "1", "--threads", "1", "--json", str(tmp_path / "out.json")])
    content, out = json.loads((tmp_path / "out.json").read_text(encoding="utf-8")), capsys.readouterr().out
    assert len(content["rows"]) == len(specs) == 10
    assert all((spec.module, spec.threads, spec.arguments["size"]) == ("loss", 1, 16) for spec in specs)
    for name, row in content["rows"].items():
        assert f"| {name} | " in out
        assert row["16"]["problem"] == "" or (name == "original tool's loss" and "No module named" in row["16"]["problem"])
    assert content["ratios"]["16^3"]


@pytest.mark.slow
def test_a_row_in_a_process_of_its_own(modules, capsys):
    modules[0].main(["--sizes", "16", "--rows", "this loss", "--repeats", "1", "--threads", "1"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| this loss | "))
    assert line.endswith(" MiB |")


@pytest.mark.slow
def test_memory_is_what_was_allocated(modules, tmp_path, monkeypatch):
    _, helper = modules
    (tmp_path / "example.py").write_text(
        "import torch\ndef build(size, device):\n    return lambda: torch.ones(size, 2**18).sum()\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = helper.measure(helper.Spec("example", "build", {"size": 200}, {"size": 1}, repeats=2, threads=1))
    assert found.problem == "" and len(found.seconds) == 2
    assert 195 < found.bytes / 2**20 < 230
    assert "does not fit" in helper.measure(helper.Spec("example", "build", {"size": 10**8}, {"size": 1})).problem
