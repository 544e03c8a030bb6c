# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The parts of a training step that `torch.compile` and `torch.func` support, and the graph breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from monai_locor.losses import LocalLearnedBasisCRLoss, LocalNCCLoss, RegistrationLoss
from monai_locor.networks import RegistrationNetwork

Graphs = list[torch.fx.GraphModule]


def network(output: str = "velocity", **options: object) -> RegistrationNetwork:
    """Two convolutions; fresh for the compiler."""
    torch._dynamo.reset()
    channels = 2 if "guide" not in options else 6
    inner = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    return RegistrationNetwork(inner, 2, output, divisible=2, **options)


def loss(learned: bool = True) -> RegistrationLoss:
    both = [LocalLearnedBasisCRLoss(2).eval() if learned else LocalNCCLoss(2, kernel_size=3) for _ in range(2)]
    return RegistrationLoss(*both)


def images(*batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(*batch, 1, 16, 12), torch.rand(*batch, 1, 16, 12)


def collecting(graphs: Graphs) -> Callable[..., object]:
    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    return backend


@pytest.mark.slow
@pytest.mark.parametrize(("output", "downsampling"), [("velocity", 1), ("displacement", 2)])
def test_the_network_and_its_warps_are_one_graph(output, downsampling):
    model, pair = network(output, downsampling=downsampling), images(2)
    compiled = torch.compile(model, backend="aot_eager_default_partitioner", fullgraph=True)
    found, expected = compiled(*pair), model(*pair)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(out["warped_moving"].square().sum(), parameters) for out in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("learned", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["locor", "lncc"])
def test_a_training_step_breaks_at_the_two_losses_only(learned):
    """Before the first, between them, and after the second."""
    graphs: Graphs = []
    model, criterion, pair = network(), loss(learned), images(1)

    def step(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        return criterion(model(moving, fixed), fixed)

    torch.testing.assert_close(torch.compile(step, backend=collecting(graphs))(*pair), step(*pair))
    explained = torch._dynamo.explain(step)(*pair)
    places = {frame.name for reason in explained.break_reasons for frame in reason.user_stack[-1:]}
    assert places == {"compare"}, [str(reason.reason) for reason in explained.break_reasons]
    convolutions = [sum("conv2d" in str(node.target) for node in graph.graph.nodes) for graph in graphs]
    assert convolutions[0] == 2 and not any(convolutions[1:])


@pytest.mark.slow
def test_a_guided_network_cannot_be_one_graph():
    """Its input is the gradient of its loss."""
    guide = loss()
    model = network(guide=guide)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(*images(1))


@pytest.mark.skipif(torch.__version__.startswith("2.8"), reason="torch 2.8: sym_strides() called on an undefined Tensor")
def test_functional_gradients_of_each_pair():
    model, criterion, (moving, fixed) = network(), loss(), images(3, 1)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def value(own: dict[str, torch.Tensor], m: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return criterion(functional_call(model, own, (m, f)), f)

    found = vmap(grad(value), in_dims=(None, 0, 0))(parameters, moving, fixed)
    for i, (m, f) in enumerate(zip(moving, fixed, strict=True)):
        expected = torch.autograd.grad(criterion(model(m, f), f), list(model.parameters()))
        for ours, theirs in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=1e-4, atol=1e-6)


def test_the_warp_refuses_a_second_derivative():
    model, (moving, fixed) = network(), images(1)
    out = model(moving, fixed)["warped_moving"].square().sum()
    gradients = torch.autograd.grad(out, list(model.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        sum(g.square().sum() for g in gradients).backward()
