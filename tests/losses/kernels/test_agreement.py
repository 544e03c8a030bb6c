# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The Triton kernels, in Triton's interpreter, against the portable path."""

from __future__ import annotations

import pytest
import torch

from monai_locor.losses import LocalLearnedBasisCRLoss

from .conftest import Problem

VALUE, GRADIENT = 1e-5, 1e-4  # of the largest

PROBLEMS = {
    "default": Problem(),
    "weights and means": Problem((6, 5, 9), (1, 1), 3, batch=2, masks=2, means=True, stride=(2.5, 3, 2)),
    "one mask for all items": Problem((5, 4, 6), batch=2, masks=1),
    "means": Problem((5, 6, 4), (2, 3), 2, means=True),
    "wide windows": Problem((7, 6, 8), (1, 1), 4, sigma=1.3, shift=(-1.4, 0.0, 1.4)),
    "thin volume": Problem((1, 9, 2), stride=(1, 3, 1), shift=(0.0, 1.5, 0.5)),
    "one voxel": Problem((1, 1, 1), (1, 1), 1, stride=(1, 1, 1), shift=(0.1, 0.2, -0.3)),
    "windows apart": Problem((9, 4, 13), (1, 1), 2, sigma=0.4, stride=(4, 3, 6)),
    "unequal layers": Problem((5, 5, 5), (3, 1), 5, hidden=(7, 20)),
    "no gradient of the images": Problem((5, 5, 5), needs=(False, False)),
    "no gradient of the basis": Problem((5, 5, 5), needs=(True, False), frozen=tuple(dict(Problem().basis.named_parameters()))),
    "some frozen parameters": Problem((5, 5, 5), frozen=("layers.0.weight", "layers.2.bias")),
}


def differences(found: list[torch.Tensor], expected: list[torch.Tensor]) -> list[float]:
    return [float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, expected, strict=True)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_same_averages_and_gradients_as_the_portable_path(interpreter, name):
    errors = differences(PROBLEMS[name].solve(True), PROBLEMS[name].solve(False))
    assert errors[0] < VALUE and max(errors[1:]) < GRADIENT


def test_same_with_the_blocks_of_a_gpu_in_slabs(interpreter, monkeypatch):
    monkeypatch.setattr(interpreter, "FEATURES_VOXELS", 64)
    monkeypatch.setattr(interpreter, "GRADIENT_VOXELS", 32)
    monkeypatch.setattr(interpreter, "GRADIENT_PROGRAMS", 2)  # each takes several blocks
    problem = Problem((8, 4, 5), (1, 1), 2, budget=800)
    errors = differences(problem.solve(True), problem.solve(False))
    assert errors[0] < VALUE and max(errors[1:]) < GRADIENT


def test_same_bytes_again(interpreter, monkeypatch):
    monkeypatch.setattr(interpreter, "GRADIENT_VOXELS", 64)
    problem = Problem((5, 4, 6))
    for first, second in zip(problem.solve(True), problem.solve(True), strict=True):
        assert torch.equal(first, second)


def test_views_are_read_where_they_lie(interpreter):
    problem = Problem((4, 3, 5), (2, 1), 2, batch=2)
    expected = problem.solve(True)
    problem.images = [image.movedim(2, -1).contiguous().movedim(-1, 2) for image in problem.images]
    assert not any(image.is_contiguous() for image in problem.images)
    for found, before in zip(problem.solve(True), expected, strict=True):
        torch.testing.assert_close(found, before, rtol=1e-6, atol=1e-6)


def test_not_a_number_stays_one(interpreter):
    problem = Problem((5, 4, 6))
    problem.images[0][0, 0, 2, 2, 2] = float("nan")
    found, expected = problem.solve(True)[0], problem.solve(False)[0]
    # the portable path multiplies it by zeros, which spreads it further
    assert found.isnan().any() and not (found.isnan() & ~expected.isnan()).any()


@pytest.mark.parametrize("form", ["log", "normalized"])
def test_gradient_of_the_loss_is_its_slope(interpreter, form):
    options = {"num_basis": 3, "form": form, "rescale": False, "eps": 1e-2}
    loss = LocalLearnedBasisCRLoss(3, 1, fused=True, **options).eval()
    exact = LocalLearnedBasisCRLoss(3, 1, **options).eval().double()
    exact.load_state_dict(loss.state_dict())
    pred, target, mask, direction = torch.rand(4, 1, 1, 5, 6, 5)
    pred.requires_grad_()
    value = loss(pred, target, mask)
    value.backward()
    step = 1e-4 * direction.double()
    with torch.no_grad():
        low, high = (exact(pred.double() + sign * step, target.double(), mask.double()) for sign in (-1, 1))
    torch.testing.assert_close(value.double(), (low + high) / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close((pred.grad * direction).sum().double(), (high - low) / 2e-4, rtol=2e-4, atol=1e-6)


def test_under_function_transforms(interpreter):
    loss = LocalLearnedBasisCRLoss(3, 1, num_basis=2, hidden_channels=(4, 4), rescale=False, eps=0.1, fused=True).eval()
    pred, target = torch.rand(2, 2, 1, 1, 3, 4, 3)
    gradients = torch.func.vmap(torch.func.grad(loss))(pred, target)
    loss.fused = False
    expected = torch.stack([torch.func.grad(loss)(x, y) for x, y in zip(pred, target, strict=True)])
    torch.testing.assert_close(gradients.detach(), expected.detach(), rtol=1e-3, atol=1e-6)
