# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tensors on ``cuda`` that have a shape and no values: for how much a large image takes, in no time and no memory."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .record import Record

__all__ = ["FakeCuda", "moved"]


def moved(module: nn.Module) -> nn.Module:
    """A module, made outside, with fake parameters and buffers on ``cuda``: ``.to("cuda")`` cannot exchange them."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            values = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype, device="cuda")
            setattr(part, name, nn.Parameter(values, parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty_strided(buffer.shape, buffer.stride(), dtype=buffer.dtype, device="cuda"))
    return module


class FakeCuda(TorchDispatchMode):
    """Inside, what is made on ``cuda`` is fake, and all that is asked of the device is recorded.

    What depends on values, ``.item()`` for instance, raises.

    Attributes:
        record: what was asked since :meth:`forget`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.fake = FakeTensorMode()

    def forget(self) -> Record:
        """A new record, for what follows."""
        self.record = Record()
        return self.record

    def __enter__(self) -> FakeCuda:
        self.fake.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.fake.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor) and x.device.type == "cuda"]
        if tensors:
            self.record.executed(func, args, kwargs or {})
            self.record.alive(tensors)
        return out
