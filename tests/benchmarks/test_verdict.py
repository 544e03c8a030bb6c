# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""`verdict.py`: transforms with the error that they state, and tables that count them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monai_locor.io import write_displacement_field, write_image

from ..phantoms import grid_of
from ..report.results import aligned
from .cases import scripts

GRID = grid_of((40, 36, 34), (2.0, 2.0, 2.0))


@pytest.fixture
def script(monkeypatch):
    return scripts(monkeypatch, "verdict", "_verdict_tables")


@pytest.fixture
def case(tmp_path):
    """An aligned pair whose truth is the identity."""
    folder = tmp_path / "pair"
    folder.mkdir()
    for name, image in zip(("fixed", "moving"), aligned(GRID), strict=True):
        write_image(folder / f"{name}.nii.gz", image, GRID)
    write_displacement_field(folder / "truth.nii.gz", torch.zeros(3, *GRID.shape), GRID)
    return folder


def test_errors_are_those_in_the_names(script, case):
    read = script.verdict.Case.read(case)
    np.testing.assert_allclose(read.truth, read.points, atol=1e-6)
    found = dict(script.verdict.wrong_by(read, np.random.default_rng(0)))
    for name, ends in found.items():
        kind, *rest = name.split()
        mean = float(read.error(ends).mean())
        if kind in ("shift", "deformation"):
            assert mean == pytest.approx(float(rest[0]), rel=1e-3), name
        elif kind == "rotation":
            assert mean == pytest.approx(float(rest[0]), rel=0.05), name
    assert read.error(found["truth"]).max() < 1e-6 and read.error(found["half turn xy"]).mean() > 30


def test_the_tables_count(script):
    errors = {"truth": 0.0, "shift 2 mm": 2.0, "shift 8 mm": 8.0}
    lines = [
        {"case": case, "transform": name, "error_mm": mm, "status": status, "measures": {"near_contrast": 2.0 - mm / 8}}
        for case, status in (("a", "PASS"), ("b", "FAIL"), ("c", "WARN"))
        for name, mm in errors.items()
    ]
    text = script.verdict_tables.tables(lines)
    assert "False PASS: 1 of 3 (33.3 %) of the wrong. False FAIL: 1 of 3 (33.3 %) of the right." in text
    assert "| right | 3 | 1 | 1 | 1 |" in text and "| near_contrast | 1.000 |" in text and "| local_support |  |" in text
    assert "False FAIL: 1 of 2 (50.0 %) of the right." in script.verdict_tables.tables(lines, inexact={"a"})
    half = (
        [{"measures": {"near_contrast": v}} for v in (1.0, 1.0, 3.0)],
        [{"measures": {"near_contrast": v}} for v in (1.0, 2.0)],
    )
    assert script.verdict_tables.area(*half, "near_contrast") == pytest.approx((2 * 0.5 + 2) / 6)


@pytest.mark.slow
def test_right_passes_and_wrong_does_not(script, case, tmp_path, capsys, monkeypatch):
    """Also when it is stopped and resumed. A stored line is judged by the present thresholds."""
    for name, fewer in (("SHIFTS_MM", (8.0,)), ("TURNS_MM", (8.0,)), ("BENDINGS_MM", ((4.0, 20.0),))):
        monkeypatch.setattr(script.verdict, name, fewer)
    path = tmp_path / "lines.jsonl"
    script.verdict.main([str(case), "--lines", str(path)])
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["transform"]: line["status"] for line in lines}["truth"] == "PASS"
    assert not any(line["status"] == "PASS" for line in lines if line["error_mm"] > 3)
    assert all(script.verdict.rejudged({**line, "status": ""})["status"] == line["status"] for line in lines)
    path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    script.verdict.main([str(case), "--lines", str(path)])
    assert path.read_text() == text and "False PASS: 0 of" in capsys.readouterr().out
