# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Steps of several pairs at once on the pretended device: launches compared with those of one pair after another."""

from __future__ import annotations

import pytest

from monai_locor.registration.batch_step import BatchStep
from monai_locor.registration.similarity import SIMILARITIES

from .tensor import PretendedCuda
from .test_steps import engine_there, measured, of_measure

PAIRS = 16
MIN_RATIO = {"mind_ssc": 1.5}  # its features are computed item by item
DEFAULT_MIN_RATIO = 8.0


@pytest.mark.parametrize("name", ["locor", *(pytest.param(n, marks=pytest.mark.slow) for n in SIMILARITIES if n != "locor")])
def test_launches_of_a_batch(name):
    config = of_measure(name)
    for kind, stage in zip(("affine", "deformable"), config.stages, strict=True):
        with PretendedCuda() as mode:
            engines = [engine_there(config, masked=False) for _ in range(PAIRS)]
            for engine in engines:
                engine.enter(stage)
            batch = BatchStep(engines, stage.iterations)
            batch.step()  # makes what is kept for the stage
            record = mode.forget()
            batch.step()
            mode.forget()
        alone, together = (sum(r.launches.values()) for r in (measured(name)[kind][0], record))
        print(f"{name}, {kind}: {alone} launches of one pair, {together} of {PAIRS}")
        assert together > 0 and PAIRS * alone >= MIN_RATIO.get(name, DEFAULT_MIN_RATIO) * together
        assert (dict(record.waits), dict(record.draws)) == ({}, {})
