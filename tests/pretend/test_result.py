# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""After the optimization only finished fields and images leave the device; no volume is computed on the host."""

from __future__ import annotations

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monai_locor import RegistrationConfig, register
from monai_locor.registration import Stage, api

from ..phantoms import grid_of, pair
from .agreement import at_most, use_portions_of_a_gpu
from .record import project_line

GRID = grid_of((30, 28, 32), (2.0, 2.0, 2.0))
CONFIG = RegistrationConfig(stages=(Stage(4, 1), Stage(2, 1, spacing=16)), multistart="never", intersubject="never")
VOLUME = math.prod(GRID.shape)
# to the host two fields, two images and the error map, to the device two images; most waits are for numbers of the verdict
CEILINGS = {"volumes to the host": 5, "volumes to the device": 2, "operations on the host": 0, "waits": 240, "launches": 4600}


class Host(TorchDispatchMode):
    """Notes copies between host and device and operations on the host of at least half a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.to_host: list[str] = []
        self.to_device: list[str] = []
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        sizes = {kind: max((x.numel() for x in tensors if x.device.type == kind), default=0) for kind in ("cpu", "cuda")}
        found = self.operations
        if func.overloadpacket.__name__ in ("_to_copy", "copy_") and all(sizes.values()):
            found = self.to_host if tensors[-1].device.type == "cpu" else self.to_device
        if max(sizes.values()) * 2 >= VOLUME and sizes["cpu"] * 2 >= VOLUME and not func.is_view:
            found.append(f"{func.overloadpacket.__name__} @ {project_line(2)}")
        return out


def test_only_the_result_leaves_the_device(cuda, monkeypatch):
    use_portions_of_a_gpu(monkeypatch)
    host, finished = Host(), api.finished_result

    def observed(*args, **kwargs):
        cuda.forget()
        with host:
            return finished(*args, **kwargs)

    monkeypatch.setattr(api, "finished_result", observed)
    fixed, moving, _ = pair(GRID, GRID)
    result = register(fixed, moving, preset=CONFIG, progress=False, device="cuda")
    assert result.verdict is not None and result.forward_mm.device.type == "cpu"
    counts = [len(host.to_host), len(host.to_device), len(host.operations)]
    counts += [sum(cuda.record.waits.values()), sum(cuda.record.launches.values())]
    print(*host.to_host, *host.to_device, *host.operations, *cuda.record.waits.items(), sep="\n")
    at_most(dict(zip(CEILINGS, counts, strict=True)), CEILINGS, "after the optimization")


def test_what_is_counted(cuda):
    """The test can fail: a copy and work on the host."""
    with Host() as host:
        values = torch.zeros(VOLUME, device="cuda").cpu() + 1
        values.to("cuda")
    assert [len(x) for x in (host.to_host, host.to_device, host.operations)] == [1, 1, 1]
