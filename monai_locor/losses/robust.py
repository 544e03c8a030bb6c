# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The form ``"robust"`` of the local learned-basis correlation ratio: a logarithm scaled by the images themselves."""

from __future__ import annotations

from typing import Any

import torch

from ..autograd import StreamedFunction

__all__ = ["robust_shares"]

MIN_SHARE = 1e-3  # smallest scale
MIN_TOTAL_CONTRAST = 1e-12


def robust_shares(residual: torch.Tensor, moments: torch.Tensor, counts: torch.Tensor | None, eps: float) -> torch.Tensor:
    """``2 sqrt(s) log(1 + q / s)``, with the unexplained share ``q = R / (V + eps)`` of a window and its mean s.

    The scale s carries no gradient, as in iteratively reweighted least squares. This is the negative log-likelihood of a
    distribution with heavy tails, Student's, whose scale is estimated from the windows themselves: the weight of a window is
    ``1 / (q + s)``. A window that fits perfectly has at most twice the weight of an average one, and one that is not explained
    at all keeps some. So it is similar to the logarithm of the residual where most windows fit well, and to the normalized
    form where most do not. Flat windows, of a variance below eps, have little weight in either.

    The factor sets how much the windows together weigh against a regularization: with s it would be that of the normalized
    form, without it that of the logarithm. The root is their geometric mean.

    Args:
        residual: R, ``(B, T, *windows)``.
        moments: of the target in the window, ``(B, P, *windows)``: the first T rows are the mean square, the last T the mean;
            others have no influence. The variance V is at least zero.
        counts: bool, whether a window counts, ``(B, 1, *windows)``; None if all do.
        eps: floor of the variance.
    """
    return _RobustShares.apply(residual, moments, counts, eps)[0]


class _RobustShares(StreamedFunction):
    """Also returns what the backward pass needs."""

    leading = (0, 1, 2)
    differentiable = (0, 1)

    @staticmethod
    def forward(
        residual: torch.Tensor, moments: torch.Tensor, counts: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, ...]:
        channels = residual.shape[1]
        mean = moments[:, -channels:]
        variance = torch.addcmul(moments[:, :channels], mean, mean, value=-1).clamp_min_(0)
        floor = variance + eps
        share, contrast = residual / floor, variance / floor
        if counts is not None:
            contrast.mul_(counts)
        total = contrast.flatten(2).sum(2).clamp_min_(MIN_TOTAL_CONTRAST)
        scale = (contrast.mul_(share).flatten(2).sum(2) / total).clamp_min_(MIN_SHARE)
        scale = scale.view(*scale.shape, *[1] * (residual.ndim - 2))
        factor = 2 * scale.sqrt()
        return torch.log1p(share / scale).mul_(factor), share, floor, scale, factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.options = {"eps": inputs[3]}
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[1], *output[1:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        moments, share, floor, scale, factor = ctx.saved_tensors
        channels = share.shape[1]
        own = (grad * factor).div_(share + scale).div_(floor)
        # a variance that was clamped at zero has no gradient
        down = torch.ops.aten.threshold_backward(own * share, floor, ctx.options["eps"])
        out = torch.zeros_like(moments)
        out[:, -channels:].addcmul_(moments[:, -channels:], down, value=2)
        out[:, :channels].sub_(down)
        return own, out, None, None
