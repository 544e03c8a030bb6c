# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Verdicts on predicted deformations: those of `check`, counted over an epoch."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_locor import check
from monai_locor.handlers import RegistrationVerdicts

from ..phantoms import grid_of
from ..report.results import aligned, noise

GRID = grid_of((96, 90), (2.0, 1.0))
pytestmark = pytest.mark.usefixtures("no_rivals")  # those of both sides come from one function


def run(handler: RegistrationVerdicts, ddfs: list[torch.Tensor], moving: list[MetaTensor], **more) -> Engine:
    """An engine that predicts these displacements, two pairs per batch, the last one alone."""
    fixed, _ = aligned(GRID)

    def step(engine: Engine, batch: dict) -> dict:
        return {"pred": {"ddf": batch["ddf"]}}

    batches = []
    for start in range(0, len(ddfs), 2):
        part = slice(start, start + 2)
        several = len(ddfs[part])
        batches.append(
            {
                "fixed": [fixed] * several,
                "moving": moving[part],
                "ddf": torch.stack(ddfs[part]),
                "name": [f"case {start + i}" for i in range(several)],
                **{name: [value] * several for name, value in more.items()},
            }
        )
    engine = Engine(step)
    handler.attach(engine)
    engine.run(batches, max_epochs=2)  # an epoch begins anew
    return engine


def shifted(voxels: float) -> torch.Tensor:
    ddf = torch.zeros(2, *GRID.shape)
    ddf[0] = voxels
    return ddf


def test_verdicts_are_those_of_check_and_are_counted(tmp_path):
    _, moving = aligned(GRID)
    ddfs = [shifted(0.0), shifted(6.0), shifted(0.0)]  # right, 12 mm beside, another image
    engine = run(RegistrationVerdicts(tmp_path / "verdicts.csv", prefix="val_"), ddfs, [moving, moving, noise(GRID)])
    assert [row["verdict"] for row in engine.state.verdicts] == ["PASS", "FAIL", "FAIL"]
    metrics = {name: pytest.approx(share) for name, share in zip(("pass", "warn", "fail"), (100 / 3, 0, 200 / 3), strict=True)}
    assert {name: engine.state.metrics[f"val_{name}_percent"] for name in metrics} == metrics
    with (tmp_path / "verdicts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == ["case 0", "case 1", "case 2"]
    matrix = np.eye(3)
    matrix[0, 2] = 12.0
    expected = check(aligned(GRID)[0], moving, matrix).verdict.measures
    assert float(rows[1]["verdict.measures.nmi_after"]) == pytest.approx(expected["nmi_after"], rel=1e-3)


def test_weights_are_masks():
    _, moving = aligned(GRID)
    weight = torch.zeros(1, *GRID.shape)
    weight[:, 40:44, 40:44] = 1
    (row,) = run(RegistrationVerdicts(), [shifted(0.0)], [moving], fixed_weight=weight).state.verdicts
    assert row["verdict.measures.valid_voxels"] == 16 and row["verdict"] == "FAIL"
