# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Steps that evaluate one direction: which ones, their gradient, and the result."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.registration import Stage

from ..phantoms import CUBE, pair
from .short_runs import SHORT, TINY, difference, engine_of, errors, run


def alternating(config):
    return dataclasses.replace(config, stages=tuple(dataclasses.replace(s, directions="alternating") for s in config.stages))


@pytest.fixture(scope="module")
def images():
    return pair()


def evaluated(engine) -> list[int]:
    """The directions in which the losses of an engine are evaluated from now on."""
    calls: list[int] = []
    for k, loss in enumerate(engine.losses):
        loss.register_forward_pre_hook(lambda *_, k=k: calls.append(k))
    return calls


@pytest.mark.parametrize(("directions", "expected"), [("both", [0, 1] * 4), ("alternating", [0, 1, 1, 0, 1])])
def test_directions_of_each_step(images, directions, expected):
    engine = engine_of(images, TINY)
    for stage in (
        Stage(4, 4, directions=directions),
        Stage(4, 4, spacing=16, directions=directions),
    ):  # every stage starts with both
        engine.enter(stage)
        calls = evaluated(engine)
        for _ in range(4):
            engine.step()
        assert calls[: len(expected)] == expected
        calls.clear()


def test_the_loss_is_the_mean_of_the_last_values(images):
    engine = engine_of(images, TINY)
    engine.enter(Stage(4, 4, directions="alternating"))
    first, values = float(engine.step()[0]), engine.values.clone()
    assert first == pytest.approx(float(values.mean()))
    second = float(engine.step()[0])
    assert engine.values[0] == values[0] and engine.values[1] != values[1]
    assert second == pytest.approx(float(engine.values.mean()))


def test_gradients_of_one_direction_add_up_to_those_of_both(images):
    """Twice the mean over both directions is the sum of the steps that evaluate one."""
    found = {}
    for name in ("both", "alternating"):
        engine = engine_of(images, dataclasses.replace(TINY, bending_weight=0.0))
        engine.losses.eval()  # the same windows in every step
        engine.enter(Stage(4, 4, spacing=16, directions=name))
        gradients: list[torch.Tensor] = []
        engine.optimizer.step = lambda gradient, failed, into=gradients: into.append(gradient.clone())  # nothing moves
        for _ in range(3):
            engine.step()
        found[name] = gradients
    torch.testing.assert_close(found["alternating"][0], found["both"][0])
    torch.testing.assert_close(found["alternating"][1] + found["alternating"][2], 2 * found["both"][1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_result_is_about_that_of_both_directions(images):
    both, found = run(*images[:2], SHORT), run(*images[:2], alternating(SHORT))
    before, after = errors(found, images[2])
    assert after < before / 4
    assert difference(both.forward_mm, found.forward_mm, CUBE, 0.95) < 0.5 * CUBE.spacing[0]
    assert torch.equal(found.forward_mm, run(*images[:2], found.config).forward_mm)


def test_unknown_directions_are_refused():
    with pytest.raises(InputError, match="directions must be one of both, alternating, got 'one'"):
        Stage(1, 1, directions="one")
