# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the tests on the pretended device share: comparisons with the CPU, with where things lie, with what is written down."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

__all__ = ["at_most", "elsewhere", "use_portions_of_a_gpu"]


def use_portions_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU work in portions as large as a GPU's, so that it sums in the same order."""
    for name, module in list(sys.modules.items()):
        if name.startswith("monai_locor."):
            for sizes in list(vars(module).values()):
                if isinstance(sizes, dict) and set(sizes) == {"cpu", "cuda"}:
                    monkeypatch.setitem(sizes, "cpu", sizes["cuda"])


def elsewhere(value: Any, device: str, name: str = "result") -> dict[str, torch.device]:
    """Where tensors lie that are not on a device, by where they were found."""
    return {where: tensor.device for where, tensor in _tensors(value, name) if tensor.device.type != device}


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{name}[{i}]")


def at_most(counted: Mapping[str, float], ceilings: Mapping[str, float], what: str) -> None:
    """Nothing may be more than is written down. What is less should be written down: `pytest -rP` shows what was counted."""
    print(f"{what}: {dict(counted)}, at most {dict(ceilings)}")
    more = [f"{name} {counted[name]}, at most {ceilings[name]}" for name in counted if counted[name] > ceilings[name]]
    assert not more, f"{what}: more than is written down, {'; '.join(more)}"
