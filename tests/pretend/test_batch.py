# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Steps of several pairs at once on the pretended device: launches compared with those of one pair after another."""

from __future__ import annotations

import pytest

from monai_locor.registration.batch_step import BatchStep
from monai_locor.registration.similarity import SIMILARITIES

from .tensor import PretendedCuda
from .test_steps import engine_there, measured, of_measure

MIN_RATIO_PER_PAIR = 0.8
ITEM_BY_ITEM = {"mind_ssc"}  # computes its features of one item after another
BATCHED = [name for name in SIMILARITIES if name not in ITEM_BY_ITEM]
PAIRS = {"locor": 8}  # the others are slow to pretend


@pytest.mark.parametrize(
    ("name", "pairs"),
    [("locor", 2), *(pytest.param(name, PAIRS.get(name, 4), marks=pytest.mark.slow) for name in BATCHED)],
)
def test_launches_of_a_batch(name, pairs):
    """The ratio to single steps is near the number of pairs."""
    config = of_measure(name)
    kinds = dict(zip(("affine", "deformable"), config.stages, strict=True))
    for kind, stage in kinds.items() if pairs > 2 else [("deformable", kinds["deformable"])]:
        with PretendedCuda() as mode:
            engines = [engine_there(config, masked=False) for _ in range(pairs)]
            for engine in engines:
                engine.enter(stage)
            batch = BatchStep(engines, stage.iterations)
            batch.step()  # makes what is kept for the stage
            record = mode.forget()
            batch.step()
            mode.forget()
        alone, together = (sum(r.launches.values()) for r in (measured(name)[kind][0], record))
        print(f"{name}, {kind}: {alone} launches of one pair, {together} of {pairs}")
        assert 0 < together <= alone / MIN_RATIO_PER_PAIR
        assert (dict(record.waits), dict(record.draws)) == ({}, {})
