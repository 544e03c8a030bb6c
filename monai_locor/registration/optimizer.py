# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The optimizer of the engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

__all__ = ["DampedAdam"]


class DampedAdam(torch.optim.Optimizer):
    """Adam whose normalization is damped by the typical gradient of the tensor.

    Adam divides each element by the root mean square of its own gradient, so noise in homogeneous regions moves a control
    point as far as an edge does elsewhere. Here the divisor is ``(rms + damping * typical rms) / (1 + damping)``: elements
    with a typical gradient move as in Adam, elements with a much smaller gradient less. With ``damping`` 0 this is Adam
    (Kingma & Ba, arXiv 1412.6980).

    Args:
        params: parameters or groups; ``damping`` may be set per group.
        lr: step size of an element with constant gradient.
        betas: decay rates of the running means of gradient and squared gradient.
        damping: strength of the damping, 0 or more.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        damping: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "damping": damping})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Perform one step; parameters without gradient are not changed."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        unbiased = 1 - second ** state["step"]
        rms = (state["square"] / unbiased).sqrt_()
        damping = group["damping"]
        if damping:
            rms = (rms + damping * (state["square"].mean() / unbiased).sqrt_()) / (1 + damping)
        parameter.addcdiv_(state["mean"], rms.add_(1e-12), value=-group["lr"] / (1 - first ** state["step"]))
