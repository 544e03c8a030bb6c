# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The script that measures what a trained network is worth, on tiny subjects and with hardly any training."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from monai_locor.registration import register

from .cases import scripts

SHORT = {
    "stages": [{"factor": 2, "iterations": 8}, {"factor": 2, "iterations": 8, "spacing": 12}],
    "initialization": "world",
    "multistart": "never",
    "intersubject": "never",
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, imported as the interpreter does when it runs it."""
    return scripts(monkeypatch, "learning").learning


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six subjects: one anatomy, deformed a little, in two contrasts."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(1, 7):
        rng = np.random.default_rng(number)
        noise = 3 * gaussian_filter(np.random.default_rng(0).normal(size=(28, 30, 26)), 3)
        noise = np.roll(noise, rng.integers(-1, 2, 3), (0, 1, 2)) / noise.std() + 0.2 * gaussian_filter(
            rng.normal(size=noise.shape), 3
        )
        volumes = {"T1": np.tanh(noise), "FLAIR": np.exp(-(noise**2)), "labels": (noise > 0) + (noise > 0.8)}
        for name, values in volumes.items():
            image = nib.Nifti1Image(values.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
            nib.save(image, folder / f"Subj{number:02d}_{name}.nii.gz")
    return folder


def test_table(script):
    def run(case: str, method: str, dice: float) -> dict:
        return {"case": case, "method": method, "dice": dice, "dice_before": 0.1, "folding_voxels": 1, "seconds": 2.0}

    runs = [run("a", "affine", 0.3), run("a", "network", 0.4), run("b", "affine", 0.5), run("b", "network", 0.4)]
    lines = script.table(script.summary(runs)).splitlines()
    assert lines[2].startswith("| before | 0.1000 | 0.0000 |")
    assert lines[4] == "| network | 0.4000 | 0.0000 | -0.1000 | 1 of 2 | 2 | 2.0 |"


def test_invalid_arguments_are_refused(script, data, tmp_path, capsys):
    for words, text in ((["--train", "1", "--test", "9"], "Subj09_T1"), (["--train", "1", "2", "--test", "2"], "must not be")):
        with pytest.raises(SystemExit):
            script.parse([str(data), "--output", str(tmp_path / "out"), *words])
        assert text in capsys.readouterr().err


@pytest.mark.slow
def test_trains_and_compares(script, data, tmp_path, monkeypatch, capsys):
    other = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        """Train in this process, which has imported everything."""
        if command[:3] != [sys.executable, "-m", "monai.bundle"]:
            return other(command, **options)
        monkeypatch.setattr(sys, "argv", command[2:])
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        return None

    monkeypatch.setattr(script.subprocess, "run", run)
    preset, out = tmp_path / "short.json", tmp_path / "out"
    preset.write_text(json.dumps(SHORT))
    monkeypatch.setattr(script, "register", lambda *given, **named: register(*given, **{**named, "preset": SHORT}))
    words = [str(data), "--output", str(out), "--train", *"1234", "--test", "5", "6", "--iterations", "2", "--threads", "1"]
    words += ["--preset", str(preset), "--spatial-size", "16", "16", "16", "--batch-size", "1"]
    for option in ("epochs=1", "pairs_per_epoch=1", "tf_dir=none", "alignment=start", "validation_fraction=0.5"):
        words += ["--option", option]
    script.main([*words, "--json", str(out / "numbers.json")])
    content = json.loads((out / "numbers.json").read_text())
    assert set(content["training_seconds"]) == {"locor", "mi", "lncc"}
    assert len(content["runs"]) == 2 * 7 and len({run["method"] for run in content["runs"]}) == 7
    full = [run for run in content["runs"] if run["method"] == "instance optimization"]
    assert all(run["dice"] > run["dice_before"] + 0.01 for run in full)
    assert "| network (locor) + 2 |" in capsys.readouterr().out

    used = []

    def attempt(case: Path, method: Any, trained: dict[str, Any], options: Any) -> dict[str, Any]:
        used.append((method.measure, sorted(trained)))
        return {"case": case.name, "method": method.name, "dice": 0.5, "dice_before": 0.1, "folding_voxels": 0, "seconds": 1.0}

    monkeypatch.setattr(script, "attempt", attempt)
    monkeypatch.delattr(script, "train")
    script.main([*words, "--measures", "locor", "--evaluate-only"])  # with the weights that are there
    assert used.count(("locor", ["loss", "network"])) == 2 * 2 and len(used) == 2 * 5
