# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The optimizer: Adam without damping, and with it less motion where there is less gradient."""

from __future__ import annotations

import copy

import pytest
import torch

from monai_locor.registration.optimizer import DampedAdam


def parameter(*shape: int, device: torch.device | str = "cpu") -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(*shape, device=device))


def advance(optimizer: torch.optim.Optimizer, tensors: list[torch.nn.Parameter], gradients: list[torch.Tensor]) -> None:
    for tensor, gradient in zip(tensors, gradients):
        tensor.grad = gradient.clone()
    optimizer.step()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_without_damping_it_is_adam(betas, device):
    ours = [parameter(7, 5, device=device), parameter(3, device=device)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    damped = DampedAdam(ours, lr=0.03, betas=betas)
    adam = torch.optim.Adam(theirs, lr=0.03, betas=betas, eps=1e-12)
    for _ in range(20):
        gradients = [torch.randn_like(p) * 10 ** torch.empty_like(p).uniform_(-4, 2) for p in ours]
        advance(damped, ours, gradients)
        advance(adam, theirs, gradients)
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("damping", [0.5, 1.0, 4.0])
def test_a_small_gradient_moves_less(damping):
    tensor = torch.nn.Parameter(torch.zeros(100))
    gradient = torch.ones(100)
    gradient[7] = 0.01
    optimizer = DampedAdam([tensor], lr=0.1, damping=damping)
    for _ in range(10):
        advance(optimizer, [tensor], [gradient])
    moved = -tensor.detach()
    assert float(moved[0]) == pytest.approx(1.0, rel=0.01)  # of typical gradient: as in Adam
    expected = 0.01 * (1 + damping) / (0.01 + damping)  # m / ((m + d) / (1 + d)) with m 0.01 of the typical one
    assert float(moved[7] / moved[0]) == pytest.approx(expected, rel=0.02)
    undamped = torch.nn.Parameter(torch.zeros(100))
    advance(DampedAdam([undamped], lr=0.1), [undamped], [gradient])
    assert float(undamped.detach()[7] / undamped.detach()[0]) == pytest.approx(1)


def test_no_step_is_longer_than_damping_allows():
    """An element may exceed the learning rate, but by no more than 1 + damping."""
    tensor = torch.nn.Parameter(torch.zeros(1000))
    gradient = torch.full((1000,), 1e-3)
    gradient[3] = 1e3
    advance(DampedAdam([tensor], lr=0.1, damping=1.0), [tensor], [gradient])
    assert float(tensor.detach().abs().max()) <= 0.1 * 2 + 1e-6


@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_the_scale_of_the_gradients_does_not_matter(damping):
    gradients = [torch.randn(50) for _ in range(10)]
    ends = []
    for scale in (1e-4, 1.0, 1e4):
        tensor = torch.nn.Parameter(torch.zeros(50))
        optimizer = DampedAdam([tensor], lr=0.1, damping=damping)
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
    optimizer = DampedAdam([tensor], lr=0.1, damping=damping)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.995**step)
    for _ in range(1200):
        optimizer.zero_grad(set_to_none=True)
        (curvature * (tensor - target).square()).sum().backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(tensor.detach(), target, atol=0.02, rtol=0)


def test_parameters_without_gradient_stay():
    with_gradient, without = parameter(4), parameter(4)
    start = without.detach().clone()
    optimizer = DampedAdam([with_gradient, without], lr=0.1, damping=1.0)
    with_gradient.grad = torch.ones(4)
    optimizer.step()
    assert torch.equal(without, start) and without not in optimizer.state
    before = with_gradient.detach().clone()
    with_gradient.grad, without.grad = None, torch.ones(4)
    optimizer.step()
    assert torch.equal(with_gradient, before)
    torch.testing.assert_close(without.detach(), start - 0.1)  # its own first step, not a second one


def test_a_gradient_of_zero_moves_nothing():
    for damping in (0.0, 1.0):
        tensor = parameter(4)
        start = tensor.detach().clone()
        advance(DampedAdam([tensor], lr=0.1, damping=damping), [tensor], [torch.zeros(4)])
        assert torch.equal(tensor, start)


def test_groups_have_their_own_damping_and_rate():
    gradient = torch.tensor([1.0] * 50 + [0.01])
    tensors = [torch.nn.Parameter(torch.zeros(51)) for _ in range(3)]
    optimizer = DampedAdam(
        [{"params": [tensors[0]]}, {"params": [tensors[1]], "damping": 1.0}, {"params": [tensors[2]], "lr": 0.2}], lr=0.1
    )
    advance(optimizer, tensors, [gradient] * 3)
    last = [float(-t.detach()[-1]) for t in tensors]
    assert last[0] == pytest.approx(0.1) and last[2] == pytest.approx(0.2) and last[1] < 0.005
    assert [float(-t.detach()[0]) for t in tensors] == pytest.approx([0.1, 0.1, 0.2], rel=0.02)


def test_it_goes_on_from_a_saved_state():
    gradients = [torch.randn(6) for _ in range(6)]
    one = parameter(6)
    two = torch.nn.Parameter(one.detach().clone())
    first = DampedAdam([one], lr=0.1, damping=1.0)
    for g in gradients[:3]:
        advance(first, [one], [g])
    two.data.copy_(one.data)
    second = DampedAdam([two], lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch does not copy the tensors
    for g in gradients[3:]:
        advance(first, [one], [g])
        advance(second, [two], [g])
    torch.testing.assert_close(one, two)
