# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C in the middle: passed on, or the best result so far, also with two processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from monai_locor import register
from monai_locor.registration import RegistrationEngine
from monai_locor.registration import run as run_module
from monai_locor.registration.run import Run

from ..phantoms import CUBE
from .short_runs import TINY, engine_of, offset, run

STEPS = 6  # of eight: in the middle of the second stage


@pytest.fixture
def interrupted(monkeypatch):
    """``interrupted(n)``: Ctrl-C while step n is computed."""

    def arm(steps: int, action=lambda: signal.raise_signal(signal.SIGINT)) -> None:
        original, count = RegistrationEngine._step, iter(range(10**6))

        def step(self):
            if next(count) == steps:
                action()
            return original(self)

        monkeypatch.setattr(RegistrationEngine, "_step", step)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    yield arm
    signal.signal(signal.SIGINT, before)


class TestOneProcess:
    def test_it_is_passed_on(self, images, interrupted):
        interrupted(STEPS)
        with pytest.raises(KeyboardInterrupt):
            run(*images[:2], TINY)

    def test_what_was_reached_is_kept(self, images, interrupted, caplog):
        engine = engine_of(images, TINY)
        for stage, steps in zip(TINY.stages, (4, STEPS - 4), strict=True):
            engine.enter(stage)
            for _ in range(steps):
                engine.step()
        interrupted(STEPS)
        found = run(*images[:2], TINY, keep_interrupted=True)
        assert found.interrupted and "interrupted" in caplog.text
        assert torch.equal(found.forward_mm, engine.forward_mm()) and found.basis is not None
        assert [len(stage["loss"]) for stage in found.history] == [4, STEPS - 4]
        assert found.forward_mm.shape == (3, *CUBE.shape) and found.jacobian["folding_percent"] == 0

    def test_before_the_first_step_it_is_the_start(self, images, interrupted):
        interrupted(0)
        found = run(*images[:2], TINY, keep_interrupted=True, initial=offset([3, 0, 0]))
        np.testing.assert_allclose(found.affine, offset([3, 0, 0]), atol=1e-9)
        assert found.interrupted and found.history == []

    def test_without_one_nothing_is_said(self, images):
        assert not run(*images[:2], TINY, keep_interrupted=True).interrupted

    def test_while_another_start_is_tried_the_first_is_kept(self, images, interrupted, monkeypatch):
        monkeypatch.setattr(run_module, "better_start", lambda *_: offset([20, 0, 0]))
        registration = Run(engine_of(images, TINY, search=True))
        interrupted(4 + 2)  # the second time through the affine stage
        with pytest.raises(KeyboardInterrupt):
            registration.complete()
        engine = registration.engine
        alone = engine_of(images, TINY)
        alone.enter(TINY.stages[0])
        for _ in range(4):
            alone.step()
        np.testing.assert_array_equal(engine.matrix(), alone.matrix())
        assert [len(stage["loss"]) for stage in engine.history] == [4] and engine.levels == {}


@pytest.mark.usefixtures("forked")
class TestTwoProcesses:
    @pytest.mark.slow
    def test_the_other_process_ends_and_the_result_is_kept(self, images, interrupted):
        threads, start = torch.get_num_threads(), time.monotonic()
        interrupted(STEPS)
        found = register(*images[:2], preset=TINY, devices=["cpu", "cpu"], progress=False, keep_interrupted=True)
        assert found.interrupted and found.basis is None  # what the other one has learned is lost
        assert time.monotonic() - start < 600 and multiprocessing.active_children() == []
        assert torch.get_num_threads() == threads and float(found.forward_mm.std()) > 0

    @pytest.mark.slow
    def test_the_other_process_leaves_ctrl_c_to_the_first(self, images, interrupted):
        def tell() -> None:
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGINT)

        interrupted(STEPS, tell)
        found = register(*images[:2], preset=TINY, devices=["cpu", "cpu"], progress=False)
        assert not found.interrupted and [len(stage["loss"]) for stage in found.history] == [4, 4]
