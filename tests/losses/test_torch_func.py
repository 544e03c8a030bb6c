# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The losses under `torch.func` and `torch.compile`, and the refusal of a second derivative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, vmap

from monai_locor.losses import LocalLearnedBasisCRLoss

from .test_measures import KINDS
from .test_rescale import ALL

OWN: dict[str, Callable[..., nn.Module]] = {name: ALL[name] for name in ("locor", "nmi", "local cr spline", *KINDS)} | {
    "own basis": lambda dims, **k: LocalLearnedBasisCRLoss(dims, basis=nn.Conv2d(1, 3, 1), **k),
}


@pytest.fixture(params=OWN)
def loss(request: pytest.FixtureRequest) -> nn.Module:
    return OWN[request.param](2).double().eval()


def batches(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Several batches of two images."""
    return torch.rand(2, count, 2, 1, 9, 8, dtype=torch.float64).unbind()


def autograd(loss: nn.Module, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    pred = pred.clone().requires_grad_()
    return torch.autograd.grad(loss(pred, target), pred)[0]


def test_grad(loss):
    pred, target = batches()
    torch.testing.assert_close(grad(loss)(pred[0], target[0]), autograd(loss, pred[0], target[0]))
    of_target = grad(loss, argnums=1)(pred[0], target[0])
    still = target[0].clone().requires_grad_()
    torch.testing.assert_close(of_target, torch.autograd.grad(loss(pred[0], still), still)[0])


def test_vmap(loss):
    pred, target = batches()
    expected = torch.stack([loss(p, t) for p, t in zip(pred, target, strict=True)])
    torch.testing.assert_close(vmap(loss)(pred, target), expected)
    masks = (torch.rand(3, 1, 1, 9, 8) > 0.3).double()
    expected = torch.stack([loss(pred[0], t, m) for t, m in zip(target, masks, strict=True)])
    found = vmap(loss, in_dims=(None, 1, 0))(pred[0], target.movedim(0, 1), masks)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
def test_gradient_of_each(loss, order):
    pred, target = batches()
    expected = torch.stack([autograd(loss, p, t) for p, t in zip(pred, target, strict=True)])
    if order == "vmap of grad":
        found = vmap(grad(loss))(pred, target)
    else:
        found = grad(lambda p: vmap(loss)(p, target).sum())(pred)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("basis", ["learned", "own"])
def test_gradient_of_the_basis_for_each_item(basis):
    """The parameters are shared, their gradients are not."""
    loss = LocalLearnedBasisCRLoss(2, basis=nn.Conv2d(1, 3, 1) if basis == "own" else basis).double().eval()
    pred, target = batches()
    parameters = dict(loss.named_parameters())

    def value(own: dict[str, torch.Tensor], p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return functional_call(loss, own, (p, t))

    found = vmap(grad(value), in_dims=(None, 0, 0))(parameters, pred, target)
    for i, (p, t) in enumerate(zip(pred, target, strict=True)):
        for ours, theirs in zip(found.values(), torch.autograd.grad(loss(p, t), list(loss.parameters())), strict=True):
            torch.testing.assert_close(ours[i], theirs)
    ensemble = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in parameters.items()}
    both = vmap(value, in_dims=(0, None, None))(ensemble, pred[0], target[0])
    with torch.no_grad():
        torch.testing.assert_close(both[0], loss(pred[0], target[0]))
        for p in loss.parameters():
            p.mul_(2)
        torch.testing.assert_close(both[1], loss(pred[0], target[0]))
    assert both[0] != both[1]


def test_random_windows_are_the_same_for_all_of_a_vmap():
    loss = LocalLearnedBasisCRLoss(2, generator=torch.Generator())
    pred, target = torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20)
    found = vmap(loss, randomness="same")(pred.expand(3, 1, 1, 20, 20), target.expand(3, 1, 1, 20, 20))
    assert found.unique().numel() == 1
    loss.generator.manual_seed(torch.Generator().initial_seed())
    torch.testing.assert_close(loss(pred, target), found[0])


class TestSecondDerivative:
    """Wrong without a word would be a gradient that is taken for a constant."""

    def test_gradient_penalty(self, loss):
        pred, target = (x[0].requires_grad_() for x in batches())
        for wanted in (pred, target):
            (gradient,) = torch.autograd.grad(loss(pred, target), wanted, create_graph=True)
            with pytest.raises(RuntimeError, match="differentiated once"):
                gradient.square().sum().backward()

    def test_with_respect_to_the_basis(self):
        loss = LocalLearnedBasisCRLoss(2).eval()
        pred, target = (x[0].float() for x in batches())
        found = torch.autograd.grad(loss(pred, target), list(loss.parameters()), create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated once"):
            sum(g.square().sum() for g in found).backward()

    def test_as_functions(self, loss):
        pred, target = (x[0] for x in batches())
        with pytest.raises(RuntimeError, match="differentiated once"):
            grad(lambda p: grad(loss)(p, target).square().sum())(pred)
        with pytest.raises(RuntimeError):
            hessian(loss)(pred, target)

    def test_create_graph_alone_is_no_fault(self, loss):
        """Some trainers set it always."""
        pred, target = (x[0] for x in batches())
        pred.requires_grad_()
        (found,) = torch.autograd.grad(loss(pred, target), pred, create_graph=True)
        torch.testing.assert_close(found.detach(), autograd(loss, pred.detach(), target), rtol=0, atol=0)

    def test_second_derivative_of_the_network_alone(self, loss):
        """Operations before the loss may have a second derivative where the loss is only scaled."""
        weight = torch.ones((), dtype=torch.float64, requires_grad=True)
        pred, target = (x[0] for x in batches())
        (first,) = torch.autograd.grad(loss(pred, target).detach() * weight**3, weight, create_graph=True)
        (second,) = torch.autograd.grad(first, weight)
        torch.testing.assert_close(second, 6 * loss(pred, target).detach())


class TestCompile:
    """Everything but the loss compiles: one graph break for each call of it."""

    @pytest.mark.parametrize("name", ["locor", "mind"])
    def test_where_the_graph_breaks(self, name):
        torch._dynamo.reset()
        loss, network = ALL[name](2).eval(), nn.Conv2d(1, 1, 3, padding=1)
        graphs: list[list[str]] = []

        def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
            graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
            return graph.forward

        def step(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return loss(network(x), target) * 2

        x, target = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)
        found = torch.compile(step, backend=backend)(x, target)
        assert len(graphs) == 2 and "conv2d" in str(graphs[0])
        torch.testing.assert_close(found, step(x, target))

    def test_one_graph_is_refused(self):
        torch._dynamo.reset()
        loss = LocalLearnedBasisCRLoss(2).eval()
        x = torch.rand(1, 1, 12, 12)
        with pytest.raises(Exception, match="faster as they are"):
            torch.compile(loss, backend="eager", fullgraph=True)(x, x)

    # the default partitioner, as loading the other one reads files of torch in the encoding that a library may have set
    @pytest.mark.parametrize("backend", ["aot_eager_default_partitioner", pytest.param("inductor", marks=pytest.mark.slow)])
    def test_training_step_is_that_of_eager_mode(self, backend):
        torch._dynamo.reset()
        network, loss = nn.Conv2d(1, 1, 3, padding=1), LocalLearnedBasisCRLoss(2).eval()
        x, target = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)
        parameters = [*network.parameters(), *loss.parameters()]
        expected = torch.autograd.grad(loss(network(x), target), parameters)
        compiled = torch.compile(nn.ModuleList([network, loss])[0], backend=backend)
        for ours, theirs in zip(torch.autograd.grad(loss(compiled(x), target), parameters), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        whole = torch.compile(lambda a, b: loss(network(a), b), backend=backend)
        for ours, theirs in zip(torch.autograd.grad(whole(x, target), parameters), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
