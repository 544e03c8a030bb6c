# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""`padding.py`: what is cut and where the error is measured, and the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.geometry import Grid

from ..phantoms import grid_of
from ..report.results import aligned
from .cases import scripts

GRID = grid_of((30, 27, 26), (5.0, 5.0, 5.0))


@pytest.fixture
def script(monkeypatch):
    found = scripts(monkeypatch, "padding", "_trouble_pairs", "_capture_pairs")
    phantom = aligned(GRID)[0].as_tensor()
    monkeypatch.setattr(
        found.trouble_pairs, "volume", lambda path: MetaTensor(phantom.clone(), affine=torch.from_numpy(GRID.affine.copy()))
    )
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_measured_where_the_rest_is_seen(script, tmp_path, seed):
    rng = np.random.default_rng(seed)
    whole = script.trouble_pairs.draw_pair(tmp_path, rng)
    kind, cut, padding = script.padding.padded(whole, rng)
    seen = cut.mask
    assert kind in ("half", "slab") and 0.2 < padding.mean() < 0.9
    assert bool((cut.moving[0].numpy()[padding] == whole.moving[0].numpy().min()).all())
    kept = cut.moving[0].numpy() == whole.moving[0].numpy()
    index = np.rint((whole.truth[seen] - Grid.of(cut.moving).affine[:3, 3]) / 5).astype(int)
    index = index[((index >= 0) & (index < GRID.shape)).all(1)]
    assert seen.sum() > 100 and not (seen & ~whole.mask).any()
    assert kept[tuple(index.T)].mean() > 0.9  # not the interpolated edge


def test_the_table(script, tmp_path, monkeypatch, capsys):
    errors = iter((1.0, 1.5, 6.0, 2.0, 2.5, 8.0))
    monkeypatch.setattr(script.padding, "error_of", lambda pair, preset, padding: next(errors))
    script.padding.main([str(tmp_path), "--cases", "2"])
    table = capsys.readouterr().out
    assert "| 1.00 | 1.50 | 6.00 |" in table and "| median |  |  |  | 1.50 | 2.00 | 7.00 |" in table
