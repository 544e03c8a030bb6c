# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A step of the engine asks the device for no values, on the CPU as well; `tests/pretend` counts launches and memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..pretend.record import Record
from .short_runs import SHORT, engine_of


class Counting(TorchDispatchMode):
    """Records every operation of aten."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.record.executed(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def test_operations_that_wait_are_counted():
    x = torch.rand(5)
    with Counting() as counting:
        x.sum().item(), x[x > 0.5], x.nonzero()
    assert counting.record.waits.total() == 3 and counting.record.launches["sum"] == 1


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("stage", SHORT.stages, ids=str)
def test_a_step_does_not_wait(images, stage, masked):
    masks = [(image > 0.1).float() if masked else None for image in images[:2]]
    engine = engine_of(images, SHORT, masks=masks)
    engine.enter(stage)
    engine.step()  # values that are computed once for a stage may be waited for
    with Counting() as counting:
        engine.step()
    assert not counting.record.waits
    assert 100 < counting.record.launches.total() < 6000
