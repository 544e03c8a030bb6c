# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The closed form: how badly the best linear combination of basis functions fits, window by window.

Small dense systems, one per window, are solved by a Cholesky factorization that is unrolled over matrix entries and
vectorized over windows: each entry is one long tensor, so a solve is a few dozen element-wise operations on any device.
"""

from __future__ import annotations

from typing import Any

import torch

from ..autograd import StreamedFunction

__all__ = ["ridge_residual", "ridge_solution"]

Factor = list[list[torch.Tensor]]


def ridge_residual(a: torch.Tensor, c: torch.Tensor, b: torch.Tensor, ridge: float) -> torch.Tensor:
    """Residual at the ridge solution, with the ridge term taken out again.

    With ``theta = (A + ridge I)^-1 c`` it is ``R = b - c^T theta - ridge |theta|^2`` (Locor, arXiv 2503.05335). The
    gradient is exact and needs no derivative of the solve: with ``u = (A + ridge I)^-1 theta``,
    ``dR/db = 1``, ``dR/dc = -2 theta - 2 ridge u``, ``dR/dA = theta theta^T + ridge (u theta^T + theta u^T)``.

    Args:
        a: upper triangles of A, row by row, ``(B, J (J + 1) / 2, ...)``.
        c: ``(B, J, C, ...)``.
        b: ``(B, C, ...)``.
        ridge: positive.

    Returns:
        ``(B, C, ...)``, clamped at zero.
    """
    return _RidgeResidual.apply(ridge, a, c, b)[0]


def ridge_solution(a: torch.Tensor, c: torch.Tensor, ridge: float) -> torch.Tensor:
    """``theta = (A + ridge I)^-1 c``, ``(B, J, C, ...)``; arguments of :func:`ridge_residual`."""
    return _solve(_cholesky(a, c.shape[1], ridge), c)


def _cholesky(a: torch.Tensor, size: int, ridge: float) -> Factor:
    """Lower factor, row by row; the diagonal holds reciprocals."""
    upper = {}
    row = 0
    for i in range(size):
        for j in range(i, size):
            upper[i, j] = a[:, row]
            row += 1
    factor: Factor = []
    for i in range(size):
        entries: list[torch.Tensor] = []
        for j in range(i):
            value = upper[j, i].clone()
            for k in range(j):
                value.addcmul_(entries[k], factor[j][k], value=-1)
            entries.append(value.mul_(factor[j][j]))
        pivot = upper[i, i] + ridge
        for k in range(i):
            pivot.addcmul_(entries[k], entries[k], value=-1)
        # the exact pivot is at least the ridge: a smaller one is rounding error
        factor.append([*entries, pivot.clamp_min_(0.5 * ridge).rsqrt_()])
    return factor


def _solve(factor: Factor, rhs: torch.Tensor) -> torch.Tensor:
    """Solve for the right-hand sides ``(B, J, C, ...)``."""
    size = len(factor)
    out = rhs.clone()
    for i in range(size):
        for k in range(i):
            out[:, i].addcmul_(factor[i][k][:, None], out[:, k], value=-1)
        out[:, i].mul_(factor[i][i][:, None])
    for i in reversed(range(size)):
        for k in range(i + 1, size):
            out[:, i].addcmul_(factor[k][i][:, None], out[:, k], value=-1)
        out[:, i].mul_(factor[i][i][:, None])
    return out


class _RidgeResidual(StreamedFunction):
    """Also returns the unclamped residual, theta and the entries of the factor, for the backward pass."""

    leading = differentiable = (1, 2, 3)

    @staticmethod
    def forward(ridge: float, a: torch.Tensor, c: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        factor = _cholesky(a, c.shape[1], ridge)
        theta = _solve(factor, c)
        residual = b - (c * theta).sum(1) - ridge * theta.square().sum(1)
        return residual.clamp_min(0), residual, theta, *(entry for row in factor for entry in row)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.options = {"ridge": inputs[0]}
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        residual, theta, *entries = ctx.saved_tensors
        ridge, size = ctx.options["ridge"], theta.shape[1]
        factor = [entries[i * (i + 1) // 2 : (i + 1) * (i + 2) // 2] for i in range(size)]
        u = _solve(factor, theta)
        grad = grad * (residual > 0)
        dc = (theta + ridge * u).mul_(-2 * grad[:, None])
        weighted = theta * grad[:, None]  # grad theta, so that each entry of dA is a sum of plain products over channels
        pull = weighted + (2 * ridge) * u * grad[:, None]
        da = []
        for i in range(size):
            for j in range(i, size):
                # dA_ij = grad (theta_i theta_j + ridge (u_i theta_j + theta_i u_j)); off the diagonal A_ij stands twice
                if i == j:
                    da.append((pull[:, i] * theta[:, i]).sum(1))
                else:
                    da.append((pull[:, i] * theta[:, j] + theta[:, i] * pull[:, j]).sum(1))
        return None, torch.stack(da, 1), dc, grad
