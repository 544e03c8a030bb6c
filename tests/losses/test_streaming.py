# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Streamed window averages against one dense product, and their adjoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import pytest
import torch

from monai_locor.losses.streaming import SLAB_BUDGET_MB, Portion, StreamedWindows, slab_budget
from monai_locor.losses.windows import AxisWindows

from .reference import axis_matrix

COUNT = 3


@dataclass(frozen=True)
class Maps:
    """Maps that are there already."""

    count: int = COUNT

    def numbers_per_voxel(self, windows: StreamedWindows) -> int:
        return windows.filter_numbers(self.count)


def streamed(shape: tuple[int, ...], budget: int) -> StreamedWindows:
    shift = torch.zeros((), dtype=torch.float64)
    return StreamedWindows([AxisWindows.gaussian(n, 0.8, 2.0, 3.0, shift) for n in shape], budget)


@pytest.mark.parametrize("shape", [(13,), (11, 6), (11, 6, 7)])
@pytest.mark.parametrize("budget", [1, 1 << 30], ids=["plane by plane", "at once"])
def test_average_and_pull_back(shape, budget):
    windows, maps = streamed(shape, budget), torch.rand(2, COUNT, *shape, dtype=torch.float64)
    found = windows.average(Maps(), maps, lambda at: maps[at[0], :, at[1]])
    matrix = reduce(torch.kron, (axis_matrix(n, 0.8, 2.0) for n in shape))
    torch.testing.assert_close(found.flatten(2), maps.flatten(2) @ matrix.T)

    grad, back = torch.rand_like(found), torch.full_like(maps, torch.nan)

    def consume(at: Portion, of_maps: torch.Tensor) -> None:
        back[at[0], :, at[1]] = of_maps

    windows.pull_back(Maps(), maps, grad, consume)
    torch.testing.assert_close(back.flatten(2), grad.flatten(2) @ matrix)


def test_the_budget_decides_how_many_planes_a_slab_has():
    assert len(streamed((40, 6), 1).slabs(Maps(), 8)) == 40
    assert len(streamed((40, 6), 1 << 30).slabs(Maps(), 8)) == 1


def test_a_slab_of_a_long_image_is_limited():
    """Its part of the first axis's matrix is dense."""
    assert max(part.stop - part.start for part in streamed((5000,), 1 << 30).slabs(Maps(), 8)) <= 512


def test_the_default_budget_is_that_of_the_device():
    assert slab_budget(torch.device("cpu"), None) == SLAB_BUDGET_MB["cpu"] * 2**20
    assert slab_budget(torch.device("cuda"), None) == SLAB_BUDGET_MB["cuda"] * 2**20
    assert slab_budget(torch.device("cuda"), 0.5) == 2**19
