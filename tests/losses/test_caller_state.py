# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Neither the state that a loss keeps between calls nor the caller's defaults change the result."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.windows import AxisWindows, WindowPlan

from .test_local_cr_robustness import gradients
from .test_rescale import ALL

WINDOWED = [name for name in ALL if name.split()[0] in ("locor", "lncc", "local", "srwcr")]


@pytest.fixture(params=ALL)
def loss(request: pytest.FixtureRequest) -> nn.Module:
    return ALL[request.param](2).eval()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(1, 1, 20, 21), torch.rand(1, 1, 20, 21)


def test_training_after_inference_mode(loss):
    """Windows made for validation are kept and work with autograd."""
    pred, target = images()
    with torch.inference_mode():
        value = loss(pred, target)
    found = gradients(loss, pred, target)
    assert torch.equal(found[0], value)
    for x, y in zip(found, gradients(copy.deepcopy(loss), pred, target), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_made_once_for_each_image_size(name, training, monkeypatch):
    made: list[type] = []
    for kind in (WindowPlan, AxisWindows):
        init = kind.__init__
        monkeypatch.setattr(kind, "__init__", lambda self, *a, init=init, **k: made.append(type(self)) or init(self, *a, **k))
    loss = ALL[name](2).train(training)
    loss(*images())
    first = made.count(WindowPlan)
    made.clear()
    loss(*images())
    assert first == 2 and WindowPlan not in made
    assert training or not made


@pytest.mark.parametrize("name", WINDOWED)
def test_what_is_kept_is_bounded(name):
    loss = ALL[name](2)
    for n in range(5, 35):
        loss(torch.rand(1, 1, n, n + 1), torch.rand(1, 1, n, n + 1))
    kept = loss.grid.plans if loss.grid is not None else loss._plans
    assert len(kept) == kept.limit == 8


@pytest.fixture
def odd_defaults() -> Iterator[None]:
    """float64, and a device on which nothing can be computed."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("name", ALL)
def test_default_dtype_and_device_change_nothing(name, request):
    pred, target = images()
    loss = ALL[name](2)
    torch.manual_seed(1)
    expected = gradients(loss, pred, target)
    request.getfixturevalue("odd_defaults")
    other = copy.deepcopy(loss)
    torch.manual_seed(1)
    for x, y in zip(gradients(other, pred, target), expected, strict=True):
        assert x.dtype == y.dtype and x.device == y.device and torch.equal(x, y)


class TestValidation:
    """MONAI calls neither `eval()` nor `train()` of a loss."""

    def test_a_loss_stays_in_training_mode(self):
        pytest.importorskip("ignite")
        from monai.data import DataLoader, Dataset
        from monai.engines import SupervisedEvaluator, SupervisedTrainer
        from monai.handlers import ValidationHandler

        items = [{"image": torch.rand(1, 16, 16), "label": torch.rand(1, 16, 16)}]
        network, loss, seen = nn.Conv2d(1, 1, 3, padding=1), LocalLearnedBasisCRLoss(2), []

        def validation_loss(output: list[dict[str, torch.Tensor]]) -> torch.Tensor:
            seen.append(loss.training)
            return loss(output[0]["pred"][None], output[0]["label"][None])

        from ignite.metrics import Average

        shared = {"device": torch.device("cpu"), "network": network}
        evaluator = SupervisedEvaluator(
            val_data_loader=DataLoader(Dataset(items)), key_val_metric={"loss": Average(validation_loss)}, **shared
        )
        SupervisedTrainer(
            max_epochs=1,
            train_data_loader=DataLoader(Dataset(items)),
            optimizer=torch.optim.Adam([*network.parameters(), *loss.parameters()]),
            loss_function=loss,
            train_handlers=[ValidationHandler(1, evaluator)],
            **shared,
        ).run()
        assert seen == [True]

    def test_what_a_validation_sees(self):
        """Another value at every call in `train()`, one value in `eval()`."""
        loss, (pred, target) = LocalLearnedBasisCRLoss(2), images()
        with torch.no_grad():
            assert len({loss(pred, target).item() for _ in range(5)}) == 5
            loss.eval()
            assert len({loss(pred, target).item() for _ in range(5)}) == 1
