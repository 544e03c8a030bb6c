# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The script that measures what a reused basis is worth."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from monai_locor.data import deform, random_diffeomorphism
from monai_locor.geometry import Grid
from monai_locor.io import write_displacement_field, write_image

from .cases import scripts

pytest.importorskip("scipy")
STAGES = ({"factor": 2, "iterations": 3}, {"factor": 2, "iterations": 8, "spacing": 8})
TINY = {"stages": [*STAGES, {"factor": 1, "iterations": 4, "spacing": 6}], "multistart": "never"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, imported as the interpreter does when it runs it."""
    return scripts(monkeypatch, "basis_reuse").basis_reuse


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two pairs of blobs and their negatives."""
    grid = Grid((20, 20, 20), torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])).numpy())
    for seed, name in enumerate("ab"):
        folder = tmp_path / "cases" / name
        folder.mkdir(parents=True)
        torch.manual_seed(seed)
        image = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6, 6), size=grid.shape, mode="trilinear")[0]
        truth = random_diffeomorphism(grid, seed, translation_mm=2, rotation_deg=2, elastic_rms_mm=1)
        write_image(folder / "moving.nii.gz", image, grid)
        write_image(folder / "fixed.nii.gz", 1 - deform(image, truth), grid)
        write_image(folder / "mask.nii.gz", torch.ones(1, *grid.shape), grid, "uint8")
        write_displacement_field(folder / "truth.nii.gz", truth, grid)
    return tmp_path / "cases"


def test_iterations_needed(script):
    curve = {10: 4.0, 40: 2.0, 160: 1.0}
    assert script.needed(curve, 3.0) == pytest.approx(20) and script.needed(curve, 1.5) == pytest.approx(80)
    assert script.needed(curve, 5.0) == 10 and script.needed(curve, 1.0) == pytest.approx(160)
    assert script.needed(curve, 0.9) is None


def test_table(script):
    def row(tool: str, iterations: int, tre: float) -> dict:
        return {"case": "a", "tool": tool, "preset": iterations, "problem": "", "tre_mm": tre, "tre_before_mm": 9.0}

    rows = [row("fresh", 10, 4), row("reused", 10, 3), row("fresh", 40, 2.5), row("reused", 40, 2), row("fresh", 80, 1)]
    rows.append({"case": "a", "tool": "reused", "preset": 80, "problem": "no memory"})
    lines = script.table(rows).splitlines()
    assert lines[2] == "| a | 10 | 9.00 | 4.000 | 3.000 | 0.75 | 10 or fewer |"
    assert lines[3] == "| a | 40 | 9.00 | 2.500 | 2.000 | 0.80 | 20 |"
    assert lines[4] == "| a | 80 | 9.00 | 1.000 |  |  | more than 40 |" and "reused failed: no memory" in lines[5]
    failed, first, _ = script.figures(rows)
    assert failed == {"case": "a", "iterations": 80, "problem": "no memory"}
    assert first == {"case": "a", "iterations": 10, "fresh_mm": 4, "reused_mm": 3, "ratio": 0.75}


@pytest.mark.slow
def test_the_script_on_tiny_cases(script, cases, tmp_path, capsys):
    pytest.importorskip("safetensors")
    preset, numbers, basis = tmp_path / "tiny.json", tmp_path / "out.json", tmp_path / "basis.safetensors"
    preset.write_text(json.dumps(TINY), encoding="utf-8")
    common = ["--preset", str(preset), "--threads", "1", "--seeds", "0", "--json", str(numbers)]
    script.main([str(cases), "a", "b", "--iterations", "2", "12", "--save-basis", str(basis), *common])
    lines = capsys.readouterr().out.splitlines()
    assert (
        "torch" in lines[0]
        and "learned on a;" in lines[1]
        and len(lines) == 7
        and all(x.startswith("| b |") for x in lines[5:])
    )
    content = json.loads(numbers.read_text(encoding="utf-8"))
    assert len(content["runs"]) == 4 and not any(run["problem"] for run in content["runs"])
    assert len(content["rows"]) == 4 and content["basis"]["learned_on"] == "a" and content["basis"]["num_basis"] == 5
    first = {run["tool"]: run["tre_mm"] for run in content["runs"] if run["preset"] == 2}
    assert first["fresh"] != first["reused"]

    script.main([str(cases), "b", "--iterations", "2", "--basis", str(basis), *common])
    again = json.loads(numbers.read_text(encoding="utf-8"))
    assert [run["tre_mm"] for run in again["runs"]] == list(first.values())


@pytest.mark.parametrize("wrong", [["a"], ["a", "b", "--iterations", "0"], ["a", "c"]])
def test_a_wrong_command_line_is_refused(script, cases, wrong):
    with pytest.raises(SystemExit):
        script.parse([str(cases), *wrong])


def test_a_failure_is_reported(script, cases):
    options = script.parse([str(cases), "a", "b"])
    (cases / "b" / "moving.nii.gz").write_bytes(b"")
    assert "moving" in script.attempt(cases / "b", 2, 0, None, options)["problem"]
