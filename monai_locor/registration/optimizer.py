# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The optimizer of the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["MAX_STEP_INCREASE", "DampedAdam", "ParameterGroup", "highest_loss"]

BETAS = (0.9, 0.999)
EPSILON = 1e-12
MAX_HALVINGS = 150  # of a float32 number, until it is 0
MAX_STEP_INCREASE = 0.5  # of the loss above that of the first step of a stage, relative; chance changes it by a few percent


def highest_loss(first: torch.Tensor) -> torch.Tensor:
    """Return the loss above which a step has failed, from that of the first step of a stage; infinite if it is not finite."""
    return torch.add(first, first.abs(), alpha=MAX_STEP_INCREASE).nan_to_num(math.inf, math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters with one learning rate.

    Attributes:
        parameters: tensors to optimize, at least one.
        rate: learning rate: step size of an element with constant gradient.
        factor: learning rate at a step, 0 for the first one, relative to ``rate``.
        damping: strength of the damping, 0 or more.
        active: fraction of the elements that have gradients; those of the others are zero.
    """

    parameters: Sequence[torch.Tensor]
    rate: float
    factor: Callable[[int], float] = lambda step: 1.0
    damping: float = 0.0
    active: float = 1.0

    @property
    def size(self) -> int:
        """Number of elements."""
        return sum(p.numel() for p in self.parameters)


class DampedAdam:
    """Adam whose normalization is damped by the typical gradient of the group.

    Adam divides each element by the root mean square of its own gradient, so noise in homogeneous regions moves a control
    point as far as an edge does elsewhere. Here the divisor is ``(rms + damping * typical rms) / (1 + damping)``: elements
    with a typical gradient move as in Adam, elements with a much smaller gradient less. With ``damping`` 0 this is Adam
    (Kingma & Ba, arXiv 1412.6980).

    All gradients are one flat tensor, and the step and all rates are on the device: a step takes few operations, and a
    CUDA graph can replay it.

    A step that failed, because its loss or gradient is not finite or the loss has risen a lot, is not taken: the step before it
    is undone, its momentum is forgotten, and all later steps are half as long.

    Args:
        groups: the parameters, all on one device.
        steps: expected number of steps; more are possible.
        betas: decay rates of the running means of gradient and squared gradient.
        items: if given, the first axis of all parameters, along which independent problems are stacked: each has its own
            typical gradients, as if it had an optimizer of its own.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        steps: int,
        betas: tuple[float, float] = BETAS,
        items: int | None = None,
    ) -> None:
        self.groups, self.betas = list(groups), betas
        self.parameters = [p for group in self.groups for p in group.parameters]
        self.leading = () if items is None else (items,)
        self.sizes = [p.numel() // (items or 1) for p in self.parameters]
        self.group_sizes = [group.size // (items or 1) for group in self.groups]
        self.device = self.parameters[0].device
        shape = *self.leading, sum(self.sizes)
        self.mean, self.square = (torch.zeros(shape, dtype=torch.float32, device=self.device) for _ in range(2))
        self.undoing = torch.zeros_like(self.mean)  # minus the last change
        self.scale = torch.ones(*self.leading, 1, dtype=torch.float32, device=self.device)
        self.one, self.half = torch.ones_like(self.scale), torch.full_like(self.scale, 0.5)
        self.index = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.steps_done = 0
        self._make_table(max(steps, 1))

    def _make_table(self, steps: int) -> None:
        first, second = self.betas
        # bias corrections included; those of the root mean square and the damping's denominator are common to all elements
        bias = [(1 - second**n) ** 0.5 / (1 - first**n) for n in range(1, steps + 1)]
        rows = [[-g.rate * g.factor(n) * (1 + g.damping) * b for g in self.groups] for n, b in enumerate(bias)]
        self.table = torch.tensor(rows, dtype=torch.float32, device="cpu").to(self.device)

    @property
    def at_end(self) -> bool:
        """Whether the next step is one more than expected: it must not be a replayed one."""
        return self.steps_done >= len(self.table)

    def gradient(self) -> torch.Tensor:
        """Remove the gradients from the parameters and return them as one tensor, ``([items, ]elements)``; zero where there is
        none.
        """
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.forget()
        return torch.cat([part.reshape(*self.leading, -1) for part in parts], -1).float()

    def failed_steps(self) -> list[int]:
        """Return how many steps failed, one number per item. Each halved the rates, so it counts to 149, which gives 0."""
        return [1 - math.frexp(scale)[1] if scale else MAX_HALVINGS for scale in self.scale.flatten().tolist()]

    def forget(self) -> None:
        """Remove the gradients from the parameters."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, failed: torch.Tensor | None = None) -> None:
        """Perform one step.

        Args:
            gradient: the result of :meth:`gradient`; changed.
            failed: whether the step failed, ``([items, ]1)`` bool; None if not.
        """
        failed = torch.zeros_like(self.scale, dtype=torch.bool) if failed is None else failed
        if self.at_end:
            self._make_table(2 * self.steps_done)
        self.steps_done += 1
        current = self.table.index_select(0, self.index)[0]
        rates = torch.cat([rate.expand(size) for rate, size in zip(current, self.group_sizes, strict=True)])
        self.index += 1
        first, second = self.betas
        gradient.masked_fill_(failed, 0)
        self.mean.lerp_(gradient, 1 - first).masked_fill_(failed, 0)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        rms = self.square.sqrt()
        for group, square, part in zip(self.groups, self._of_groups(self.square), self._of_groups(rms), strict=True):
            if group.damping:
                part.add_(square.mean(-1, keepdim=True).sqrt_(), alpha=group.damping * group.active**-0.5)
        self.scale.mul_(torch.where(failed, self.half, self.one))
        change = self.mean / rms.add_(EPSILON)  # zero where the step failed
        factors = torch.where(failed, self.one, rates * self.scale).expand_as(change)
        taken = torch.where(failed, self.undoing, change)
        torch._foreach_addcmul_(self.parameters, self._as_parameters(taken), self._as_parameters(factors))
        torch.mul(change, factors, out=self.undoing).neg_()

    def _of_groups(self, flat: torch.Tensor) -> Sequence[torch.Tensor]:
        return flat.split(self.group_sizes, -1)

    def _as_parameters(self, flat: torch.Tensor) -> list[torch.Tensor]:
        return [part.view_as(p).to(p.dtype) for part, p in zip(flat.split(self.sizes, -1), self.parameters, strict=True)]
