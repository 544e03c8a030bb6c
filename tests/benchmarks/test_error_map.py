# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The calibration of the error map finds a known relation, and the package applies it as the script does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monai_locor.quality.error_features import FEATURES
from monai_locor.quality.error_model import ErrorModel

from .cases import scripts

NODES = 500


@pytest.fixture
def folder(tmp_path):
    """Six cases whose error depends on one feature and its typical value."""
    rng = np.random.default_rng(0)
    for case in range(6):
        features = rng.standard_normal((len(FEATURES), NODES)) + 0.5 * case
        error = np.exp(0.5 * features[1] + 0.3 * rng.standard_normal(NODES))
        entry = {"case": f"case{case}", "kind": "synthetic", "name": "end", "transforms": []}
        typical = np.median(features, axis=1)
        np.savez(tmp_path / f"{case}.npz", features=features, typical=typical, error=error, step=2.0, entry=json.dumps(entry))
    return tmp_path


def test_a_known_relation_is_found(folder, capsys, monkeypatch):
    error_map = scripts(monkeypatch, "error_map").error_map
    error_map.fit(folder, folder / "model.json")
    model = ErrorModel.of(json.loads((folder / "model.json").read_text()))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) == 6 and np.mean([line["rank"] for line in lines]) > 0.6
    assert 0.75 < np.mean([line["coverage"] for line in lines]) <= 1
    part = error_map.Sampled.read(folder / "3.npz")
    values = torch.from_numpy(part.features.T.copy())
    found = model.score(values, torch.ones(NODES, dtype=torch.bool))
    typical = np.sort(part.features, axis=0)[(NODES - 1) // 2]  # the lower median, as in torch
    content = {name: np.array(x) for name, x in json.loads((folder / "model.json").read_text()).items() if name != "features"}
    apart = (part.features - typical).clip(-content["reach"], content["reach"])
    expected = (
        apart @ content["local"] + typical.clip(content["low"], content["high"]) @ content["typical"] + content["intercept"]
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
