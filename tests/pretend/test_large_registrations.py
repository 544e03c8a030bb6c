# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The memory of large registrations on a GPU, with fake tensors, against the predicted one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from monai_locor.geometry import Grid
from monai_locor.registration import PRESETS, RegistrationEngine, Start, pyramid
from monai_locor.registration.memory import TYPICAL_SQUARINGS, MemoryNeed, RunShape, predicted_memory
from monai_locor.registration.start.prepare import PreparedImage

from .fake import FakeCuda

FAST = PRESETS["fast"]
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """Two images of one shape with voxels of 1 mm."""

    shape: tuple[int, ...]
    masked: bool = False
    thrifty: bool = False

    @property
    def grid(self) -> Grid:
        return Grid(self.shape, np.eye(4))

    def start(self) -> Start:
        """Of images on the fake device."""

        def volume() -> torch.Tensor:
            return torch.rand(1, *self.shape, device="cuda")

        order = self.grid, self.grid, (0, 1, 2), (False, False, False)
        images = tuple(PreparedImage(volume(), volume() if self.masked else None, *order) for _ in range(2))
        return Start(images, np.eye(4), thrifty=self.thrifty)

    def predicted(self) -> MemoryNeed:
        shape = RunShape(self.grid, self.grid, (self.grid, self.grid), masked=(self.masked,) * 2, device="cuda")
        return predicted_memory(shape, FAST, self.thrifty)


@pytest.fixture
def without_values(monkeypatch):
    """Replaces what reads values, which fake tensors do not have: the object fills the image, the affine is the identity."""

    def replaced(module: nn.Module, change, recurse: bool = True) -> nn.Module:
        """What ``.to()`` calls: parameters on another device are other fake tensors."""
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                setattr(part, name, nn.Parameter(change(parameter.detach()), parameter.requires_grad))
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, change(buffer))
        return module

    def choose_squarings(engine: RegistrationEngine, stage: object) -> None:
        engine.velocity.exponential.squarings = TYPICAL_SQUARINGS

    monkeypatch.setattr(nn.Module, "_apply", replaced)
    monkeypatch.setattr(pyramid, "_box_of", lambda seen: tuple(slice(0, n) for n in seen.shape))
    monkeypatch.setattr(RegistrationEngine, "matrix", lambda engine: np.eye(4))
    monkeypatch.setattr(RegistrationEngine, "_choose_squarings", choose_squarings)


def held(case: Case) -> int:
    """Bytes on the device at most in steps of the finest stage, images included."""
    with FakeCuda() as mode:
        engine = RegistrationEngine(case.start(), FAST)
        engine.enter(FAST.stages[-1])
        for _ in range(2):
            engine.step()
        return mode.record.peak


CASES = {
    "128": Case((128, 128, 128)),
    "256": Case((256, 256, 256)),
    "256 thrifty": Case((256, 256, 256), thrifty=True),
    "512x512x300": Case((512, 512, 300)),
    "512x512x300 masked": Case((512, 512, 300), masked=True),
    "512": Case((512, 512, 512)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_as_predicted(without_values, case):
    """The portable path of the loss; its kernels hold no slabs."""
    assert case.predicted().steps == pytest.approx(held(case), rel=0.2)


@pytest.mark.slow
def test_half_a_gpu_of_24_gib_is_enough_for_512_cubed(without_values):
    assert held(CASES["512"]) < 11 * GIB and CASES["512"].predicted().peak < 12 * GIB
