# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The optimizer: Adam without damping, and with it less motion where there is less gradient."""

from __future__ import annotations

import pytest
import torch

from monai_locor.registration.optimizer import DampedAdam, ParameterGroup


def parameter(*shape: int, device: torch.device | str = "cpu") -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(*shape, device=device))


def adam(*tensors: torch.nn.Parameter, lr: float, damping: float = 0.0, steps: int = 20, **options) -> DampedAdam:
    return DampedAdam([ParameterGroup(tensors, lr, damping=damping)], steps, **options)


def advance(optimizer: DampedAdam, tensors: list[torch.nn.Parameter], gradients: list[torch.Tensor]) -> None:
    for tensor, gradient in zip(tensors, gradients):
        tensor.grad = gradient.clone()
    optimizer.step(optimizer.gradient())


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_without_damping_it_is_adam(betas, device):
    ours = [parameter(7, 5, device=device), parameter(3, device=device)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    damped = adam(*ours, lr=0.03, betas=betas)
    reference = torch.optim.Adam(theirs, lr=0.03, betas=betas, eps=1e-12)
    for _ in range(20):
        gradients = [torch.randn_like(p) * 10 ** torch.empty_like(p).uniform_(-4, 2) for p in ours]
        advance(damped, ours, gradients)
        for tensor, gradient in zip(theirs, gradients):
            tensor.grad = gradient
        reference.step()
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("damping", [0.5, 1.0, 4.0])
def test_a_small_gradient_moves_less(damping):
    tensor = torch.nn.Parameter(torch.zeros(100))
    gradient = torch.ones(100)
    gradient[7] = 0.01
    optimizer = adam(tensor, lr=0.1, damping=damping)
    for _ in range(10):
        advance(optimizer, [tensor], [gradient])
    moved = -tensor.detach()
    assert float(moved[0]) == pytest.approx(1.0, rel=0.01)  # of typical gradient: as in Adam
    expected = 0.01 * (1 + damping) / (0.01 + damping)  # m / ((m + d) / (1 + d)) with m 0.01 of the typical one
    assert float(moved[7] / moved[0]) == pytest.approx(expected, rel=0.02)
    undamped = torch.nn.Parameter(torch.zeros(100))
    advance(adam(undamped, lr=0.1), [undamped], [gradient])
    assert float(undamped.detach()[7] / undamped.detach()[0]) == pytest.approx(1)


def test_no_step_is_longer_than_damping_allows():
    """An element may exceed the learning rate, but by no more than 1 + damping."""
    tensor = torch.nn.Parameter(torch.zeros(1000))
    gradient = torch.full((1000,), 1e-3)
    gradient[3] = 1e3
    advance(adam(tensor, lr=0.1, damping=1.0), [tensor], [gradient])
    assert float(tensor.detach().abs().max()) <= 0.1 * 2 + 1e-6


@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_the_scale_of_the_gradients_does_not_matter(damping):
    gradients = [torch.randn(50) for _ in range(10)]
    ends = []
    for scale in (1e-4, 1.0, 1e4):
        tensor = torch.nn.Parameter(torch.zeros(50))
        optimizer = adam(tensor, lr=0.1, damping=damping)
        for g in gradients:
            advance(optimizer, [tensor], [g * scale])
        ends.append(tensor.detach())
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("damping", [0.0, 1.0, 5.0])
def test_a_quadratic_is_minimized(damping, device):
    target = torch.randn(20, device=device)
    curvature = 10 ** torch.linspace(-0.5, 0.5, 20, device=device)
    tensor = torch.nn.Parameter(torch.zeros(20, device=device))
    optimizer = DampedAdam([ParameterGroup([tensor], 0.1, lambda step: 0.995**step, damping)], 1200)
    for _ in range(1200):
        (curvature * (tensor - target).square()).sum().backward()
        optimizer.step(optimizer.gradient())
    torch.testing.assert_close(tensor.detach(), target, atol=0.02, rtol=0)


def test_parameters_without_gradient_stay():
    with_gradient, without = parameter(4), parameter(2, 3)
    before, start = with_gradient.detach().clone(), without.detach().clone()
    optimizer = adam(with_gradient, without, lr=0.1, damping=1.0)
    advance(optimizer, [with_gradient], [torch.ones(4)])
    assert torch.equal(without, start) and not torch.equal(with_gradient, before)
    assert with_gradient.grad is None


def test_a_gradient_of_zero_moves_nothing():
    for damping in (0.0, 1.0):
        tensor = parameter(4)
        start = tensor.detach().clone()
        advance(adam(tensor, lr=0.1, damping=damping), [tensor], [torch.zeros(4)])
        assert torch.equal(tensor, start)


def test_groups_have_their_own_damping_and_rate():
    gradient = torch.tensor([1.0] * 50 + [0.01])
    tensors = [torch.nn.Parameter(torch.zeros(51)) for _ in range(3)]
    groups = [ParameterGroup([t], rate, damping=d) for t, rate, d in zip(tensors, (0.1, 0.1, 0.2), (0.0, 1.0, 0.0))]
    optimizer = DampedAdam(groups, 1)
    advance(optimizer, tensors, [gradient] * 3)
    last = [float(-t.detach()[-1]) for t in tensors]
    assert last[0] == pytest.approx(0.1) and last[2] == pytest.approx(0.2) and last[1] < 0.005
    assert [float(-t.detach()[0]) for t in tensors] == pytest.approx([0.1, 0.1, 0.2], rel=0.02)


def test_more_steps_than_expected():
    """The rates of further steps are added to the table."""
    gradients = [torch.randn(6) for _ in range(7)]
    one = parameter(6)
    two = torch.nn.Parameter(one.detach().clone())
    few, many = adam(one, lr=0.1, damping=1.0, steps=2), adam(two, lr=0.1, damping=1.0, steps=7)
    for gradient in gradients:
        advance(few, [one], [gradient])
        advance(many, [two], [gradient])
    assert torch.equal(one, two)


def test_parameters_keep_their_type():
    tensors = [torch.nn.Parameter(torch.zeros(3, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.bfloat16)]
    advance(adam(*tensors, lr=0.5), tensors, [torch.ones_like(t) for t in tensors])
    for tensor in tensors:
        torch.testing.assert_close(tensor.detach(), torch.full_like(tensor, -0.5))


@pytest.mark.parametrize("items", [None, 3])
def test_a_failed_step_undoes_the_last_one_and_halves_those_after_it(items):
    """Each item of a batch by itself."""
    start = torch.rand(items or 1, 4, dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = DampedAdam([ParameterGroup([parameter], 0.1)], 10, items=items)
    positions = []
    for failing in (False, False, True, False):
        positions.append(parameter.detach().clone())
        failed = torch.zeros_like(optimizer.scale, dtype=torch.bool)
        failed.view(-1)[-1] = failing  # the last item, or the only one
        parameter.grad = torch.ones_like(parameter)
        gradient = optimizer.gradient()
        optimizer.step(gradient if not failing else gradient.masked_fill(failed, torch.nan), failed)
    last = positions[3][-1], positions[1][-1]
    torch.testing.assert_close(*last)
    assert optimizer.scale.flatten().tolist() == [*[1.0] * ((items or 1) - 1), 0.5]
    if items:
        assert (positions[3][0] < positions[2][0]).all()
    assert parameter.isfinite().all() and (parameter[-1] <= positions[3][-1]).all()
