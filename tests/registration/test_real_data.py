# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Real anatomy with a known answer, scored by a program that shares no code with the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from monai_locor import register
from monai_locor.registration import PRESETS

CASE = "brain_t2_t1_2mm"


@pytest.fixture(scope="module")
def case(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T2 against deformed T1 of one brain, 2 mm, made afresh."""
    out, bench = tmp_path_factory.mktemp("cases"), shared / "bench"
    if not (bench / "make_cases.py").is_file():
        pytest.skip("no benchmark beside the repository")
    call(bench / "make_cases.py", bench / "cases.json", shared / "data", out, CASE)
    return out / CASE


def call(*command: Path | str) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True, timeout=600)


@pytest.mark.slow
def test_two_modalities_of_a_brain(case, shared, tmp_path, device):
    preset = "fast" if "fast" in PRESETS else "default"
    result = register(case / "fixed.nii.gz", case / "moving.nii.gz", preset=preset, device=device, progress=False)
    result.save(tmp_path)
    score = tmp_path / "score.json"
    call(shared / "bench" / "score.py", case, "--field", tmp_path / "forward_field.nii.gz", "--json", score)
    found = json.loads(score.read_text())
    assert found["finite"] and found["folding_percent"] == 0
    assert found["tre_before_mm"] > 5 and found["tre_mm"] < 1.0, found
