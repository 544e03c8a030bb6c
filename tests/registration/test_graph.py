# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Replayed steps are ordinary steps bit by bit, and where there can be no CUDA graph nobody notices."""

from __future__ import annotations

import contextlib
import dataclasses
import logging

import pytest
import torch
from torch import nn

from monai_locor.registration import RegistrationConfig, RegistrationEngine, Stage, graph

from ..phantoms import grid_of, pair
from .short_runs import engine_of
from .software_graph import SoftwareGraph, recorded_step

GRID = grid_of((14, 12, 13), (3.0, 3.0, 3.0))
AFFINE, DEFORMABLE = Stage(2, 8, learning_rate=0.02), Stage(1, 8, spacing=4, learning_rate=0.16)
ALTERNATING = dataclasses.replace(DEFORMABLE, directions="alternating")


def entered(stage: Stage, similarity: str = "locor", masked: bool = False) -> RegistrationEngine:
    """An engine at the beginning of a stage, with the same random numbers each time."""
    torch.manual_seed(5)
    config = dataclasses.replace(RegistrationConfig(), stages=(stage,))
    config = config if similarity == "locor" else config.with_similarity(similarity)
    images = pair(GRID, GRID)[:2]
    engine = engine_of(images, config, masks=[(i > 0.1).float() if masked else None for i in images])
    engine.enter(stage)
    return engine


def parameters(engine: RegistrationEngine) -> list[torch.Tensor]:
    return [p.detach().clone() for p in engine.parameters()]


@pytest.mark.parametrize(
    ("stage", "similarity", "masked"),
    [(DEFORMABLE, "locor", True), (AFFINE, "locor", False), (DEFORMABLE, "mutual_information", False)],
)
def test_nothing_that_changes_from_step_to_step_is_recorded(stage, similarity, masked):
    """Window shifts, learning rates and the number of the step are read from memory."""
    expected = entered(stage, similarity, masked)
    values = [expected.step() for _ in range(6)]
    found = entered(stage, similarity, masked)
    windows, recorded, results = recorded_step(found)
    assert bool(windows.windows) == (similarity == "locor")
    torch.testing.assert_close(results, values[1], rtol=0, atol=0)
    for value in values[2:]:
        before = parameters(found)
        windows.draw((0, 1))
        recorded.replay()
        torch.testing.assert_close(results, value, rtol=0, atol=0)
        assert not all(torch.equal(*both) for both in zip(before, parameters(found)))
    assert all(torch.equal(*both) for both in zip(parameters(found), parameters(expected)))


class FakeCuda:
    """What the module asks of `torch.cuda`; its graphs are those in software."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.replays = fails, 0

    def is_available(self) -> bool:
        return True

    def Stream(self, device) -> FakeCuda:  # noqa: N802 (named as in torch)
        return self

    def current_stream(self, device) -> FakeCuda:
        return self

    def wait_stream(self, other) -> None:
        pass

    def stream(self, stream) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def CUDAGraph(self) -> SoftwareGraph:  # noqa: N802 (named as in torch)
        made = SoftwareGraph()
        replay = made.replay

        def counted() -> None:
            self.replays += 1
            replay()

        made.replay = counted
        return made

    @contextlib.contextmanager
    def graph(self, made, stream):
        """The step is computed while it is recorded, and taken back, since CUDA only records."""
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        state = [(t, t.detach().clone()) for t in self.state()]
        with made:
            yield
        for tensor, value in state:
            tensor.data.copy_(value)


def graphed(monkeypatch, engine: RegistrationEngine, fails: bool = False) -> tuple[graph.Step, FakeCuda]:
    fake = FakeCuda(fails)
    optimizer = engine.optimizer
    fake.state = lambda: [*engine.parameters(), optimizer.mean, optimizer.square, optimizer.index, engine.values]
    monkeypatch.setattr(graph.torch, "cuda", fake)
    monkeypatch.setattr(graph, "obstacle", lambda engine: "")
    return graph.stepper(engine), fake


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("more", [0, 3], ids=["steps of the stage", "more steps"])
def test_steps_are_the_ordinary_ones(monkeypatch, caplog, fails, more):
    expected = entered(AFFINE)
    values = [torch.stack(expected.step()) for _ in range(AFFINE.iterations + more)]
    found = entered(AFFINE)
    step, fake = graphed(monkeypatch, found, fails)
    with caplog.at_level(logging.DEBUG, logger=graph.__name__):
        assert all(torch.equal(torch.stack(step()), value) for value in values)
    assert fake.replays == (0 if fails else AFFINE.iterations - graph.WARMUP_STEPS)
    assert ("not permitted" in caplog.text) == fails
    assert all(torch.equal(*both) for both in zip(parameters(found), parameters(expected)))


def test_each_direction_in_turn_has_its_graph(monkeypatch):
    expected = entered(ALTERNATING)
    values = [torch.stack(expected.step()) for _ in range(8)]
    found = entered(ALTERNATING)
    step, fake = graphed(monkeypatch, found)
    assert all(torch.equal(torch.stack(step()), value) for value in values)
    assert fake.replays == 8 - 1 - 2 * graph.WARMUP_STEPS  # the first step evaluates both
    assert all(torch.equal(*both) for both in zip(parameters(found), parameters(expected)))


def test_where_there_is_no_graph(monkeypatch, caplog):
    engine = entered(AFFINE)
    with caplog.at_level(logging.DEBUG, logger=graph.__name__):
        assert graph.stepper(engine) == engine.step
    assert "the device is cpu" in caplog.text and all(r.levelno == logging.DEBUG for r in caplog.records)
    monkeypatch.setattr(engine, "device", torch.device("cuda"))
    assert "the device" in graph.obstacle(engine)  # CUDA is not available
    monkeypatch.setattr(graph.torch.cuda, "is_available", lambda: True)
    assert graph.obstacle(engine) == ""
    engine.losses[1] = nn.L1Loss()
    assert "L1Loss" in graph.obstacle(engine)
    engine.exchange = object()
    assert "process" in graph.obstacle(engine)
