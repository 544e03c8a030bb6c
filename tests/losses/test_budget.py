# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The memory budget of a loss is what a call holds, whatever the slabs are."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from monai_locor.losses.gram import local_gram
from monai_locor.losses.local_parzen import LocalParzen, local_parzen
from monai_locor.losses.parzen import GaussianParzen, SplineParzen
from monai_locor.losses.products import LocalGram
from monai_locor.losses.streaming import StreamedWindows
from monai_locor.losses.windows import GridPlan, WindowPlan
from monai_locor.networks.basis import LearnedBasis, PolynomialBasis

from ..held import Held
from ..parameters import mostly_slow

MIB = 2**20


def windows(shape: tuple[int, ...], stride: float, budget: int) -> StreamedWindows:
    plans = [WindowPlan.gaussian(n, 0.8, stride, 3.0) for n in shape]
    plan = GridPlan(plans, [False] * len(plans), torch.device("cpu"), torch.float32)
    return StreamedWindows(plan.centered, budget)


def learned(budget: int, shape: tuple[int, ...], basis: nn.Module, num_basis: int, **options: bool) -> int:
    """Peak of forward and backward beside results and gradients, bytes."""
    gram, streamed = LocalGram(basis, num_basis, 2, **options), windows(shape, 3, budget)
    pred, target = torch.rand(1, 2, *shape, requires_grad=True), torch.rand(1, 2, *shape, requires_grad=True)
    root = torch.rand(1, 1, *shape) if options.get("masked") else None
    return peak(lambda: local_gram(gram, streamed, pred, target, root, dict(basis.named_parameters())), [pred, target])


def parzen(budget: int, shape: tuple[int, ...], encoder: object, stride: float = 3) -> int:
    maps, streamed = LocalParzen(encoder), windows(shape, stride, budget)
    images = [torch.rand(1, *shape, requires_grad=True) for _ in range(3)]
    return peak(lambda: local_parzen(maps, streamed, *images, torch.rand(1, *shape))["first"], images)


def peak(call: Callable[[], torch.Tensor], inputs: list[torch.Tensor]) -> int:
    with Held() as forward:
        out = call()
    result = out.untyped_storage().nbytes()
    grad = torch.rand_like(out)
    with Held() as backward:
        torch.autograd.backward(out, grad)
    # the gradient of the maps may be unpacked from that of the rows that are used
    made = sum(x.untyped_storage().nbytes() for x in inputs) + 2 * result
    return max(forward.peak - result, backward.peak - made)


SHAPES = {"last slab smaller": (23, 21, 19), "2-D": (150, 120), "even": (24, 24, 24), "1-D": (6000,)}
CALLS: dict[str, Callable[[int, tuple[int, ...]], int]] = {
    "learned": partial(learned, basis=LearnedBasis(2), num_basis=5),
    "learned masked": partial(learned, basis=LearnedBasis(2), num_basis=5, masked=True),
    "learned normalized": partial(learned, basis=LearnedBasis(2, 3, (8,)), num_basis=3, masked=True, first_moments=True),
    "polynomial": partial(learned, basis=PolynomialBasis(2, 3), num_basis=10, masked=True),
    "identity": partial(learned, basis=nn.Identity(), num_basis=2, masked=True, first_moments=True),
    "parzen": partial(parzen, encoder=GaussianParzen(16)),
    "parzen everywhere": partial(parzen, encoder=GaussianParzen(8), stride=1),
    "spline parzen": partial(parzen, encoder=SplineParzen(32)),
}


@pytest.mark.parametrize("shape", mostly_slow(SHAPES.values(), 2), ids=SHAPES.keys())
@pytest.mark.parametrize("call", mostly_slow(CALLS.values(), 3), ids=CALLS.keys())
def test_a_call_holds_no_more_than_its_budget(call, shape):
    held = call(MIB, shape)
    assert held <= MIB
    assert held > 0.3 * MIB or len(shape) == 1  # and makes use of it, unless the slab would be too long


def test_one_plane_is_the_least():
    plane = learned(1, (5, 40, 40), LearnedBasis(2), 5)
    assert 40 * 40 * 4 < plane < 1000 * 40 * 40


def test_a_smaller_last_slab_costs_nothing():
    """The budget allows 16 planes or so: their memory is that of the next slab, whatever its size."""
    held = [learned(2 * MIB, (n, 16, 16), LearnedBasis(2), 5) for n in (48, 47, 49, 65)]
    assert max(held) < 1.1 * held[0]


def test_the_counter_counts():
    with Held() as held:
        x = torch.ones(1000)
        y = x + 1
        del x
        torch.ones(500), y.view(10, 100)
    assert held.peak == 8000


def test_numbers_per_voxel_is_an_estimate_of_what_is_held():
    """Within a factor of two of what one large slab takes."""
    shape = (24, 24, 24)
    gram = LocalGram(LearnedBasis(2), 5, 2)
    held = learned(10**12, shape, LearnedBasis(2), 5) / 4 / math.prod(shape)
    assert held < gram.numbers_per_voxel(windows(shape, 3, 10**12)) < 2 * held
