# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Inputs of the tests of the kernels, and the large blocks that make Triton's interpreter bearable."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from monai_locor.losses.gram import local_gram
from monai_locor.losses.products import LocalGram
from monai_locor.losses.streaming import StreamedWindows
from monai_locor.losses.windows import GridPlan, WindowPlan
from monai_locor.networks.basis import LearnedBasis

collect_ignore = ["compile_for_gpus.py"]  # a script that imports Triton


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that launches the kernels, which Triton's interpreter runs on the CPU in large blocks."""
    pytest.importorskip("triton", reason="Triton is not installed; `make test-kernels` installs it")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET is not 1, as in `make test-kernels`")
    from monai_locor.losses.kernels import launch

    monkeypatch.setattr(launch, "FEATURES_VOXELS", 512)
    monkeypatch.setattr(launch, "GRADIENT_VOXELS", 512)
    return launch


@dataclass
class Problem:
    """Images, windows and a basis, computed by either path."""

    shape: tuple[int, ...] = (6, 7, 8)
    channels: tuple[int, int] = (2, 2)  # of pred and target
    num_basis: int = 5
    hidden: tuple[int, ...] = (16, 16)
    batch: int = 1
    sigma: float = 0.8
    stride: tuple[float, ...] = (3, 3, 3)
    shift: tuple[float, ...] = (0.4, -1.3, 0.9)
    masks: int = 0  # number of items with weights of their own; 0 for no weights
    means: bool = False
    needs: tuple[bool, bool] = (True, True)  # gradients of pred and target
    frozen: tuple[str, ...] = ()  # parameters without a gradient
    budget: int = 1 << 22
    images: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.basis = LearnedBasis(self.channels[0], self.num_basis, self.hidden, generator)
        self.images = [torch.rand(self.batch, c, *self.shape, generator=generator) for c in self.channels]
        self.weight = None
        if self.masks:
            self.weight = torch.rand(self.masks, 1, *self.shape, generator=generator).sub(0.3).clamp_min(0)

    def streamed(self) -> StreamedWindows:
        """The windows."""
        axes = [WindowPlan.gaussian(n, self.sigma, a, 3.0) for n, a in zip(self.shape, self.stride, strict=True)]
        plan = GridPlan(axes, [True] * len(axes), torch.device("cpu"), torch.float32)
        return StreamedWindows(plan.shifted(torch.tensor(self.shift, dtype=torch.float64)), self.budget)

    def solve(self, fused: bool) -> list[torch.Tensor]:
        """The maps, and the gradients of a sum of them with alternating weights."""
        images = [image.detach().requires_grad_(need) for image, need in zip(self.images, self.needs, strict=True)]
        gram = LocalGram(self.basis, self.num_basis, self.channels[1], self.weight is not None, self.means, fused=fused)
        given = {name: p for name, p in self.basis.named_parameters() if name not in self.frozen}
        maps = local_gram(gram, self.streamed(), *images, self.weight, given)
        wanted = [x for x in (*images, *given.values()) if x.requires_grad]
        score = (maps * torch.linspace(0, 50, maps.numel()).sin().view_as(maps)).sum()
        return [maps.detach(), *torch.autograd.grad(score, wanted)]
