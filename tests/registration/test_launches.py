# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The inner loop never waits: what a step asks the host, counted where there is no GPU, refused where there is one."""

from __future__ import annotations

import collections

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .short_runs import SHORT, engine_of

# operations whose result or shape depends on values, for which the host has to wait
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "bincount", "lstsq")


class Counter(TorchDispatchMode):
    """How often each operation of aten runs, and how many bytes of tensors that Python made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        if name == "lift_fresh":
            self.made += out.numel() * out.element_size()
        if name == "index" and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self.calls["nonzero"] += 1
        return out


def test_counter_sees_what_waits():
    """The test can fail."""
    x = torch.rand(5)
    with Counter() as counter:
        x.sum().item(), x[x > 0.5], x.nonzero()
        torch.tensor([1.0, 2.0])
    assert counter.calls["_local_scalar_dense"] == 1 and counter.calls["nonzero"] == 2 and counter.made == 8


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("stage", SHORT.stages, ids=str)
def test_a_step_asks_for_nothing(images, stage, masked):
    masks = [(image > 0.1).float() if masked else None for image in images[:2]]
    engine = engine_of(images, SHORT, masks=masks)
    engine.enter(stage)
    engine.step()  # what is made once may be asked for
    with Counter() as counter:
        engine.step()
    assert {name: counter.calls[name] for name in WAITING if counter.calls[name]} == {}
    # the stride of the windows, whose random shift is drawn on the host and sent without waiting: three float64 each
    assert counter.made <= 2 * 3 * 8
    assert 100 < sum(counter.calls.values()) < 6000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stage", SHORT.stages, ids=str)
def test_a_gpu_is_never_waited_for(images, stage):
    engine = engine_of(images, SHORT, device="cuda")
    engine.enter(stage)
    engine.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
