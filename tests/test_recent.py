# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The few things that are kept from call to call."""

from __future__ import annotations

import copy
import pickle

import torch

from monai_locor.recent import Recent


def test_only_the_last_few_are_kept():
    made: list[int] = []
    recent = Recent[int](limit=3)

    def ask(n: int) -> int:
        return recent.get(n, lambda: made.append(n) or n * n)

    assert [ask(n) for n in (1, 2, 3, 1, 4, 1, 2)] == [1, 4, 9, 1, 16, 1, 4]
    assert made == [1, 2, 3, 4, 2] and len(recent) == 3


def test_copies_and_pickles_are_empty():
    recent = Recent[int](limit=3)
    recent.get("x", lambda: 1)
    for other in (copy.deepcopy(recent), pickle.loads(pickle.dumps(recent))):
        assert len(other) == 0 and other.limit == 3
    assert len(recent) == 1


def test_tensors_can_be_trained_with_wherever_they_were_made():
    recent = Recent[torch.Tensor]()
    with torch.inference_mode():
        kept = recent.get("x", lambda: torch.ones(3))
    assert not kept.is_inference()
    x = torch.ones(3, requires_grad=True)
    (x * kept).sum().backward()
    assert torch.equal(x.grad, torch.ones(3))
