# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The disturbances, outcomes and tables of `benchmarks/capture.py`."""

from __future__ import annotations

import json
from types import ModuleType

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.geometry import Grid

from .cases import scripts

PLAIN = {"rotation": 0.0, "translation": 0.0, "scale": 1.0, "view": 1.0, "mirror": None, "seed": 3}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    found = scripts(monkeypatch, "capture", "_capture_pairs")
    return found.capture, found.capture_pairs


def case(pairs: ModuleType, dims: int):
    """Images whose gray levels are their own first world coordinate, and a few points."""
    grid = Grid((9, 8, 7)[:dims], np.diag([*[2.0] * dims, 1.0]))
    values = torch.from_numpy(grid.points()[..., 0].copy()).float()[None]
    image = MetaTensor(values, affine=torch.from_numpy(grid.affine.copy()))
    points = np.random.default_rng(0).uniform(4, 10, (5, dims))
    return pairs.Case(image, image, points, points)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("change", [{"rotation": 130.0, "scale": 0.7}, {"translation": 0.5}, {"view": 0.5}, {"mirror": 0}])
def test_points_move_with_the_image(modules, dims, change):
    """The gray level at a true point, read from the disturbed image, is that of the point."""
    before = case(modules[1], dims)
    after = modules[1].disturbed(before, PLAIN | change)
    grid = Grid.of(after.moving)
    at = np.linalg.inv(grid.affine) @ np.column_stack((after.truth, np.ones(5))).T
    values = after.moving.as_tensor()[0].numpy()
    slope = float(values[(1, *[0] * (dims - 1))] - values[(0,) * dims])
    np.testing.assert_allclose(values[(0,) * dims] + slope * at[0], before.points[:, 0], atol=1e-4)
    assert np.linalg.norm(grid.affine[:-1, 0]) == pytest.approx(2 * PLAIN.get("scale") * change.get("scale", 1))
    assert (np.linalg.det(grid.affine) < 0) == ("mirror" in change)
    assert (grid.shape == Grid.of(before.moving).shape) == ("view" not in change)


def test_the_grid_varies_one_quantity(modules):
    capture = modules[0]
    found = list(capture.conditions("T2-T1", 2, False))
    assert len(found) == 2 * sum(map(len, capture.SWEEPS.values()))
    assert len({(c["sweep"], c["value"], c["seed"]) for c in found}) == len(found)
    assert all(c[c["sweep"]] == c["value"] and c["translation"] <= capture.MAX_TRANSLATION for c in found)
    assert found == list(capture.conditions("T2-T1", 2, False))


def test_the_table_counts_outcomes(modules, tmp_path, capsys):
    capture = modules[0]
    names = ("error", "verdict", "rotation", "sweep", "value")
    some = [(0.5, "PASS", 90), (40.0, "FAIL", 120), (40.0, "WARN", 150), (40.0, "PASS", 180)]
    rows = [
        PLAIN | dict(zip(names, (e, v, r, "rotation", r), strict=True)) | {"pair": "T2-T1", "processor_seconds": 3.0}
        for e, v, r in some
    ]
    assert "| T2-T1 | rotation | 4 | 1 | 1 | 1 | 1 | 0.50 | 3.0 |" in capture.table(rows)
    assert capture.summary(rows).endswith("T2-T1 2 of 4 (50 %)")
    assert capture.outcome(rows[0] | {"mirror": 0}) == "PASS, off"
    path, picture = tmp_path / "runs.jsonl", tmp_path / "runs.png"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    capture.plot([json.loads(line) for line in path.read_text().splitlines()], picture)
    assert picture.stat().st_size > 1000
