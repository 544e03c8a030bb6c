# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Windows in memory that stays in place: the same calls as with windows that each call draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_locor.losses import LocalLearnedBasisCRLoss, LocalNCCLoss, LocalParzenCRLoss, MutualInformationLoss

RANDOM = {
    "locor": lambda **k: LocalLearnedBasisCRLoss(2, **k),
    "lncc": lambda **k: LocalNCCLoss(2, kernel_type="gaussian", stride=(1, 3), **k),
    "local parzen": lambda **k: LocalParzenCRLoss(2, **k),
}


def values(loss: nn.Module, static: bool, calls: int = 3) -> list[torch.Tensor]:
    """Values and gradients of a few calls."""
    pred, target = torch.rand(2, 1, 1, 17, 14, generator=torch.Generator().manual_seed(1)).unbind()
    pred.requires_grad_()
    windows, out = loss.static_windows((17, 14), "cpu") if static else None, []
    for _ in range(calls):
        if windows is not None:
            windows.draw()
        with loss.windows_from(windows):
            value = loss(pred, target)
        out += [value, *torch.autograd.grad(value, pred)]
    return out


@pytest.mark.parametrize("name", RANDOM)
def test_calls_are_those_with_windows_of_their_own(name):
    torch.manual_seed(0)
    loss = RANDOM[name](generator=torch.Generator().manual_seed(5))
    drawn = values(loss, static=False)
    loss.generator.manual_seed(5)
    for found, expected in zip(values(loss, static=True), drawn, strict=True):
        assert torch.equal(found, expected)
    assert drawn[0] != drawn[2]


def test_only_a_draw_changes_them():
    loss, image = LocalLearnedBasisCRLoss(2), torch.rand(1, 1, 20, 20)
    static = loss.static_windows((20, 20), "cpu")
    place = static.buffer.data_ptr()
    static.draw()
    with loss.windows_from(static), torch.no_grad():
        first, second = loss(image, image), loss(image, image)
        static.draw()
        third = loss(image, image)
    assert first == second != third and static.buffer.data_ptr() == place


def test_there_are_none_where_nothing_is_drawn():
    assert LocalLearnedBasisCRLoss(2).eval().static_windows((20, 20), "cpu") is None
    assert LocalNCCLoss(2).static_windows((20, 20), "cpu") is None
    assert MutualInformationLoss(2).static_windows((20, 20), "cpu") is None


def test_they_are_those_of_one_shape():
    loss = LocalLearnedBasisCRLoss(2)
    with loss.windows_from(loss.static_windows((20, 20), "cpu")), pytest.raises(ValueError, match="static windows are for"):
        loss(torch.rand(1, 1, 20, 21), torch.rand(1, 1, 20, 21))
