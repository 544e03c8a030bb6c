# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The script that shows which windows a registration listens to."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from .cases import TWO_ITERATIONS, scripts, write_blob_case

pytest.importorskip("matplotlib")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return scripts(monkeypatch, "influence")


def test_influence_is_the_change_of_the_loss(modules):
    """By finite differences of all forms, for a fit that improves by a small part of the variance."""
    residual, variance, eps, part = np.array([1e-3, 2e-3, 5e-2]), np.array([4e-3, 2e-3, 0.1]), 1e-4, 1e-6
    improved = residual - part * variance
    scale = np.average(residual / (variance + eps), weights=variance / (variance + eps))
    losses = {
        "log": lambda r: np.log(r + eps),
        "normalized": lambda r: 1 - (variance - r) / (variance + eps),
        "robust": lambda r: 2 * scale**0.5 * np.log(1 + r / (variance + eps) / scale),
    }
    for form, loss in losses.items():
        change = loss(residual) - loss(improved)
        found = modules.influence.influence(residual, variance, form, eps)
        np.testing.assert_allclose(found, change / change.mean(), rtol=1e-3)


def test_shares_ignore_voxels_without_a_value(modules):
    residual = np.array([0.1, 0.2, 0.3, 0.4, np.nan])
    variance = np.array([1.0, 1.0, 0.5, 0.5, np.nan])
    counts = np.array([4.0, 3.0, 2.0, 1.0, np.nan])
    assert modules.influence.shares(residual, variance, counts) == pytest.approx((0.4, 0.3))


@pytest.mark.slow
def test_the_script_draws_and_prints(modules, tmp_path, capsys):
    case = write_blob_case(tmp_path / "cases" / "blob")
    (tmp_path / "tiny.json").write_text(json.dumps(TWO_ITERATIONS))
    out = tmp_path / "pictures"
    modules.influence.main([str(case.parent), "--preset", str(tmp_path / "tiny.json"), "--threads", "1", "--output", str(out)])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| blob")]
    assert [row[1:3] for row in rows] == [["log", "1e-05"], ["normalized", "1e-05"], ["robust", "0.0005"]]
    assert len({row[3] for row in rows}) == 1 and 0 <= float(rows[0][4]) <= 1
    assert (out / "blob-influence.png").stat().st_size > 1000
