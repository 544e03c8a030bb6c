# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Steps with the Triton kernels on the pretended device: what they launch, with kernels that are only counted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from monai_locor.losses.kernels import choice
from monai_locor.registration import PRESETS

from .agreement import at_most
from .record import Record
from .tensor import PretendedCuda
from .test_steps import check, engine_there, of_measure, second_step

PACKAGE = choice.__name__.rpartition(".")[0]
KERNELS = {
    "device": ("lists_kernel", "features_kernel", "average_kernel", "gradient_kernel"),
    "device_fit": ("residual_kernel", "residual_gradient_kernel"),
}
LAUNCHES = {"affine": 163, "deformable": 239}  # of a step of the preset default at 24^3


class Counted:
    """Takes the place of a kernel: a launch that writes nothing."""

    def __init__(self, name: str, record: Callable[[], Record]) -> None:
        self.name, self.record = name, record

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(0 < n < 2**31 for n in grid)
        return self.launch

    def launch(self, *arguments: object, **options: object) -> None:
        assert all(x.device.type == "cuda" for x in arguments if isinstance(x, torch.Tensor))
        self.record().launches[self.name] += 1


@pytest.fixture
def kernels(cuda: PretendedCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU with Triton."""
    for name, own in KERNELS.items():
        module = ModuleType(name)
        for kernel in own:
            setattr(module, kernel, Counted(kernel, lambda: cuda.record))
        monkeypatch.setitem(sys.modules, f"{PACKAGE}.{name}", module)
    launching = [f"{PACKAGE}.{name}" for name in ("launch", "launch_fit")]
    before = {name: sys.modules.pop(name, None) for name in launching}
    monkeypatch.setattr(choice, "_of_machine", lambda device: "")
    monkeypatch.setattr(choice, "is_plain", lambda *tensors: True)
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext())
    yield
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.mark.usefixtures("kernels")
def test_launches(cuda):
    config = of_measure("locor")
    engine, counted = engine_there(config, masked=False), {}
    for kind, stage in zip(LAUNCHES, config.stages, strict=True):
        record = second_step(cuda, engine, stage)
        check(stage, record)
        assert {record.launches[name] for own in KERNELS.values() for name in own} == {2}  # one per direction
        counted[kind] = sum(record.launches.values())
    at_most(counted, LAUNCHES, "launches of a step with the kernels")


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("preset", PRESETS)
def test_no_stage_of_a_preset_has_more_than_300(cuda, preset):
    """With masks."""
    engine = engine_there(PRESETS[preset], masked=True)
    counted = {str(k): sum(second_step(cuda, engine, s).launches.values()) for k, s in enumerate(engine.config.stages)}
    at_most(counted, dict.fromkeys(counted, 300), f"launches of the stages of {preset}")
