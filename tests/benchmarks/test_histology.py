# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The landmark errors of stained sections."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from monai_locor import RegistrationConfig

from .cases import scripts

SHIFTS = {"a": (0, 0), "b": (3, -4)}  # pixels


@pytest.fixture
def histology(monkeypatch: pytest.MonkeyPatch, tmp_path) -> SimpleNamespace:
    """The script, and a folder of two sections with landmarks of ten times their scale; registration does nothing."""
    module = scripts(monkeypatch, "histology").histology
    register = module.monai_locor.register
    nothing = RegistrationConfig(
        stages=({"factor": 1, "iterations": 0, "spacing": 4},), multistart="never", initialization="world"
    )
    monkeypatch.setattr(
        module.monai_locor, "register", lambda *images, preset, **options: register(*images, preset=nothing, **options)
    )
    pixels = np.full((30, 32, 3), 230, np.uint8)
    pixels[8:20, 9:22] = [[120, 40, 160]]
    for name, shift in SHIFTS.items():
        Image.fromarray(np.roll(pixels, shift[::-1], (0, 1))).save(tmp_path / f"{name}.png")
        rows = [f"{label},{10 * (x + shift[0])},{10 * (y + shift[1])}" for label, x, y in (("1", 10, 12), ("2", 20, 15))]
        (tmp_path / f"{name}_landmarks.csv").write_text("\n".join([" ,X,Y", *(rows if name == "a" else rows[::-1])]))
    (tmp_path / "a_landmarks_second_reader.csv").write_text(" ,X,Y\n1,100,110\n2,200,170\n")
    (tmp_path / "without.png").write_bytes((tmp_path / "a.png").read_bytes())
    return SimpleNamespace(module=module, folder=tmp_path)


def test_errors_and_table(histology, capsys):
    record = histology.folder / "out.json"
    assert histology.module.main([str(histology.folder), "--presets", "fast", "--seeds", "0", "1", "--json", str(record)]) == 0
    rows = json.loads(record.read_text())
    assert {(row["fixed"], row["moving"]) for row in rows} == {("a", "b"), ("b", "a")} and len(rows) == 6
    for row in rows:
        assert row["mean"] == pytest.approx(5, abs=1e-3) and row["median"] == pytest.approx(5, abs=1e-3), row
    text = capsys.readouterr().out
    assert "| tool | a - b | b - a | all |" in text and "| fast | 5.0 (5.0) | 5.0 (5.0) | 5.0 (5.0) |" in text
    assert "two readers of a: mean 1.5, median 1.5, p95 1.9 pixels" in text
