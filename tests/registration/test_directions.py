# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Both directions at the same time: threads, errors, and the same result as one after the other."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from monai_locor.registration import Stage
from monai_locor.registration.directions import DirectionThreads
from monai_locor.registration.start.losses import InitialLosses

from ..phantoms import pair
from .short_runs import TINY, engine_of


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_jobs_meet_with_half_of_the_threads_each(two_threads):
    meeting, seen = threading.Barrier(2, timeout=20), {}

    def work(name):
        meeting.wait()  # passes only if both run at the same time
        seen[name] = torch.get_num_threads()

    DirectionThreads(True)(work, [("first",), ("second",)])
    assert seen == {"first": 1, "second": 1} and torch.get_num_threads() == 2


@pytest.mark.parametrize(("concurrent", "threads", "jobs"), [(False, 2, 2), (True, 1, 2), (True, 2, 1)])
def test_otherwise_jobs_run_here_in_their_order(two_threads, concurrent, threads, jobs):
    torch.set_num_threads(threads)
    seen = []
    DirectionThreads(concurrent)(lambda k: seen.append((k, threading.get_ident())), [(k,) for k in range(jobs)])
    assert seen == [(k, threading.get_ident()) for k in range(jobs)]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_either_job_is_raised_when_both_have_ended(two_threads, failing):
    ended = []

    def work(k):
        try:
            if k == failing:
                raise ValueError(f"job {k}")
        finally:
            ended.append(k)

    with pytest.raises(ValueError, match=f"job {failing}"):
        DirectionThreads(True)(work, [(0,), (1,)])
    assert sorted(ended) == [0, 1] and torch.get_num_threads() == 2


def test_steps_are_those_of_one_direction_after_the_other(two_threads, monkeypatch):
    images, found = pair(), []
    for concurrent in (True, False):
        engine = engine_of(images, TINY)
        if not concurrent:
            monkeypatch.setattr(engine, "threads", lambda work, jobs: [work(*job) for job in jobs])
        for stage in (Stage(4, 2), Stage(4, 2, spacing=16)):
            engine.enter(stage)
            losses = [engine.step()[0] for _ in range(2)]
        found.append((torch.stack(losses), *(p.detach() for p in engine.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # half of the threads sum in another order


def test_losses_of_others_run_one_after_the_other(two_threads):
    """Their random numbers may come from one generator."""
    seen = []

    class Own(nn.Module):
        def forward(self, pred, target):
            seen.append(threading.get_ident())
            return (pred[:, :1] - target).square().mean()

    engine = engine_of(pair(), TINY, losses=InitialLosses(similarity=Own()))
    engine.enter(Stage(4, 2))
    engine.step()
    assert seen == [threading.get_ident()] * 2
