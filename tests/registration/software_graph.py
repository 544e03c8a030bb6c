# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A CUDA graph in software: the operations of a block, recorded and repeated in the memory that they used."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monai_locor.registration import RegistrationEngine, graph


class SoftwareGraph(TorchDispatchMode):
    """Records every operation of aten with its arguments and results.

    :meth:`replay` repeats them. As in a CUDA graph, no Python code runs again: numbers that the host computed, and which
    tensors were used, are those of the recording.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        aliased = [t.untyped_storage().data_ptr() in given for t in made if t.numel()]
        if func._schema.is_mutable or not (aliased and all(aliased)):  # a view of a tensor follows it
            self.operations.append((func, args, kwargs, out))
        else:
            self.operations.append((None, args, kwargs, out))  # keeps the memory
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            if func is None:
                continue
            found = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(tree_leaves(out), tree_leaves(found), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)


def recorded_step(engine: RegistrationEngine) -> tuple[graph.RecordedWindows, SoftwareGraph, tuple[torch.Tensor, ...]]:
    """Run an ordinary step and record another; return the windows, the recording and what the recorded step returned."""
    windows = graph.RecordedWindows(engine)
    with windows.used():
        windows.draw((0, 1))
        engine.step()
        windows.draw((0, 1))
        with SoftwareGraph() as recorded:
            results = engine.step()
    return windows, recorded, results
