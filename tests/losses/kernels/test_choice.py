# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Which local Gram matrices the kernels compute, and what happens when they fail."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest
import torch

from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.kernels import choice
from monai_locor.losses.products import LocalGram
from monai_locor.networks.basis import LearnedBasis, PolynomialBasis

from .conftest import Problem


def reason(problem: Problem, basis: torch.nn.Module | None = None, dtype: torch.dtype = torch.float32) -> str:
    gram = LocalGram(basis or problem.basis, problem.num_basis, problem.channels[1])
    images = tuple(image.to(dtype) for image in problem.images)
    return choice.unsupported(gram, problem.streamed(), (*images, None), {})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the kernels run."""
    monkeypatch.setattr(choice, "_of_machine", lambda device: "")


def test_what_is_supported(machine):
    assert reason(Problem()) == ""
    assert reason(Problem((4, 4, 4), sigma=1.3, num_basis=8, hidden=(32, 32))) == ""


@pytest.mark.parametrize(
    ("problem", "arguments", "told"),
    [
        (Problem(), {"dtype": torch.float64}, "not float32"),
        (Problem(), {"basis": PolynomialBasis(2, 2)}, "plain LearnedBasis"),
        (Problem(hidden=(16,)), {}, "hidden layers are [16]"),
        (Problem(hidden=(16, 64)), {}, "hidden layers are [16, 64]"),
        (Problem(num_basis=11), {}, "13 features"),
        (Problem((4, 4), stride=(3, 3), shift=(0, 0)), {}, "three axes"),
        (Problem((30, 30, 30), sigma=3.0), {}, "too large"),
        (Problem((9, 9, 9), stride=(1, 1, 1), shift=(0, 0, 0)), {}, "125 around a voxel"),
    ],
    ids=["float64", "polynomial", "one layer", "wide", "many functions", "2-D", "wide windows", "dense windows"],
)
def test_what_is_not(machine, problem, arguments, told):
    assert told in reason(problem, **arguments)


def test_a_changed_basis_is_not(machine):
    basis = LearnedBasis(2)
    basis.layers[0].register_forward_hook(lambda module, given, out: 2 * out)
    assert "plain LearnedBasis" in reason(Problem(), basis)


def test_a_cpu_refuses_to_be_told(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    loss = LocalLearnedBasisCRLoss(3, rescale=False, fused=True)
    with pytest.raises(ValueError, match=r"fused=True is not possible: .*(triton|cpu).*; use fused=None"):
        loss(*torch.rand(2, 1, 1, 6, 6, 6))


def test_a_cpu_is_never_chosen(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai_locor.losses.kernels.launch", None)  # cannot be imported
    LocalLearnedBasisCRLoss(3, rescale=False)(*torch.rand(2, 1, 1, 6, 6, 6))


@pytest.fixture
def failing(machine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that are chosen on the CPU and fail; the calls of them."""
    calls = []

    class FusedGram:
        def __init__(self, *arguments: object) -> None:
            calls.append("made")
            raise RuntimeError("out of resource: shared memory\nRequired: 300000")

    module = ModuleType("launch")
    module.FusedGram = FusedGram  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "monai_locor.losses.kernels.launch", module)
    monkeypatch.setattr(choice, "_failed", set())
    monkeypatch.setattr(choice, "_asked_for", lambda fused, device: device not in choice._failed)
    return calls


def test_after_a_failure_the_portable_path_computes(failing, caplog):
    loss = LocalLearnedBasisCRLoss(3, rescale=False).eval()
    pred, target = torch.rand(2, 1, 1, 6, 7, 5)
    pred.requires_grad_()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss(pred, target).backward()
    assert failing == ["made"] and pred.grad.abs().sum() > 0
    assert [record.getMessage() for record in caplog.records] == [
        "Triton failed on cpu (RuntimeError: out of resource: shared memory); the loss is computed without it."
    ]


def test_a_failure_is_told_to_whoever_asked_for_the_kernels(failing):
    loss = LocalLearnedBasisCRLoss(3, rescale=False, fused=True)
    with pytest.raises(RuntimeError, match="out of resource"):
        loss(*torch.rand(2, 1, 1, 6, 6, 6))
