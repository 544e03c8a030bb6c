# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Steps of the engine on the pretended device: they never wait, and launch no more than is written down."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest

from monai_locor.registration import PRESETS, RegistrationConfig, RegistrationEngine, Stage
from monai_locor.registration.similarity import SIMILARITIES

from ..parameters import mostly_slow
from ..phantoms import grid_of, pair
from ..registration.short_runs import engine_of
from .agreement import at_most
from .record import Record
from .tensor import PretendedCuda

GRID = grid_of((24, 24, 24), (2.5, 2.5, 2.5))
# of a step of the preset default at 24^3, by measure: of an affine stage, of a deformable one
LAUNCHES = {
    "locor": (285, 361),
    "mutual_information": (335, 411),
    "normalized_mutual_information": (383, 459),
    "correlation_ratio": (355, 431),
    "local_parzen_cr": (397, 473),
    "srwcr": (581, 657),
    "local_ncc": (319, 395),
    "mind_ssc": (1325, 1401),
}
# storages on the device in a step of the last stage, floats for each sample of both directions
MEMORY = {
    "locor": 53.1,
    "mutual_information": 47.6,
    "normalized_mutual_information": 47.6,
    "correlation_ratio": 46.6,
    "local_parzen_cr": 45.9,
    "srwcr": 77.9,
    "local_ncc": 17.1,
    "mind_ssc": 29.5,
}


MEASURES = mostly_slow(SIMILARITIES, 2)


def engine_there(config: RegistrationConfig, masked: bool) -> RegistrationEngine:
    images = pair(GRID, GRID)[:2]
    masks = [(image > 0.1).float() if masked else None for image in images]
    return engine_of(images, config, device="cuda", masks=masks)


def check(stage: Stage | str, record: Record) -> None:
    assert record.launches
    assert (dict(record.waits), dict(record.draws)) == ({}, {}), str(stage)


def second_step(mode: PretendedCuda, engine: RegistrationEngine, stage: Stage) -> Record:
    """What it asks of the device; what is made once for a stage is made in the first one, and may be waited for."""
    engine.enter(stage)
    engine.step()
    record = mode.forget()
    engine.step()
    mode.forget()
    return record


def of_measure(name: str) -> RegistrationConfig:
    """The default with another measure, and one stage of each kind."""
    stages = RegistrationConfig().stages
    config = dataclasses.replace(RegistrationConfig(), stages=(stages[1], stages[-1]))
    return config if name == "locor" else config.with_similarity(name)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_no_stage_waits(cuda, preset):
    """With masks; without, a stage of each kind is measured below."""
    engine = engine_there(PRESETS[preset], masked=True)
    launches: dict[str, set[int]] = {"affine": set(), "deformable": set()}
    for stage in engine.config.stages:
        record = second_step(cuda, engine, stage)
        check(stage, record)
        launches["deformable" if stage.spacing else "affine"].add(sum(record.launches.values()))
    assert all(p.isfinite().all() and p.device.type == "cuda" for p in engine.parameters())
    # the tables are about one stage of each kind
    assert preset != "default" or [len(counts) for counts in launches.values()] == [1, 1], launches


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"basis": "polynomial"}, {"derivative": "none"}, {"derivative": "both"}, {"bending_weight": 0.0}, {"affine": False}],
    ids=str,
)
def test_no_variant_waits(cuda, settings):
    config = dataclasses.replace(of_measure("locor"), **settings)
    check(config.stages[-1], second_step(cuda, engine_there(config, masked=True), config.stages[-1]))


@functools.cache
def measured(name: str) -> dict[str, tuple[Record, int]]:
    """A step of a stage of each kind, and the number of samples."""
    config, found = of_measure(name), {}
    with PretendedCuda() as mode:
        engine = engine_there(config, masked=False)
        for kind, stage in zip(("affine", "deformable"), config.stages, strict=True):
            record = second_step(mode, engine, stage)
            found[kind] = record, sum(math.prod(level.grid.shape) for level in engine.levels.values())
    return found


@pytest.mark.parametrize("name", MEASURES)
def test_no_measure_waits(name):
    for kind, (record, _) in measured(name).items():
        check(kind, record)


@pytest.mark.parametrize("name", MEASURES)
def test_launches(name):
    counted = {kind: sum(record.launches.values()) for kind, (record, _) in measured(name).items()}
    at_most(counted, dict(zip(("affine", "deformable"), LAUNCHES[name])), f"launches of a step with {name}")


@pytest.mark.parametrize("name", MEASURES)
def test_memory(name):
    record, samples = measured(name)["deformable"]
    at_most({name: round(record.peak / 4 / samples, 1)}, MEMORY, "floats for each sample")


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMILARITIES)
def test_no_measure_waits_with_masks(cuda, name):
    engine = engine_there(of_measure(name), masked=True)
    for stage in engine.config.stages:
        check(stage, second_step(cuda, engine, stage))
