# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The loss once more, from its formula: slow, dense, float64, differentiated by autograd. Nothing is shared with the package.

Every window is a row of one dense matrix over all voxels, every moment a plain `einsum`, the solve `torch.linalg.solve`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch

from monai_locor.losses import LocalLearnedBasisCRLoss


def axis_matrix(size: int, sigma: float, stride: float, truncated: float = 3.0, shift: float = 0.0) -> torch.Tensor:
    """`(windows, size)`: Gaussians `stride` apart, cut at `truncated * sigma` (half a voxel at least), rows sum to 1."""
    count = max(1, math.ceil(size / stride - 1e-9))
    centers = (size - 1) / 2 + stride * (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) + shift
    centers = centers.clamp(-0.5, size - 0.5)  # a window keeps its center inside the image
    distance = (torch.arange(size, dtype=torch.float64) - centers[:, None]).abs()
    weight = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= max(truncated * sigma, 0.5))
    return weight / weight.sum(1, keepdim=True)


def strides(loss: LocalLearnedBasisCRLoss, shape: Sequence[int]) -> list[float]:
    """Distance of the windows along each axis: at most a quarter of it, but one voxel at least where more is asked for."""
    return [step if step <= 1 else min(step, max(1, n / 4)) for step, n in zip(loss.stride, shape, strict=True)]


def window_matrix(loss: LocalLearnedBasisCRLoss, shape: Sequence[int], shift: Sequence[float]) -> torch.Tensor:
    """`(all windows, all voxels)`: the Kronecker product of the axes' matrices."""
    axes = zip(shape, loss.kernel_sigma, strides(loss, shape), shift, strict=True)
    return reduce(torch.kron, (axis_matrix(n, sigma, stride, loss.truncated, s) for n, sigma, stride, s in axes))


def window_values(
    loss: LocalLearnedBasisCRLoss,
    pred: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    shift: Sequence[float] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value of each window `(B, T, windows)` with 0 where it does not count, and which count `(B, windows)`.

    `loss` gives the options and the basis; its rescaling is left out.
    """
    shape = pred.shape[2:]
    windows = window_matrix(loss, shape, shift or [0.0] * len(shape)).to(pred.device)
    weight = pred.new_ones(len(pred), *shape) if mask is None else mask[:, 0].expand(len(pred), *shape)
    averages = torch.einsum("rx,bx->brx", windows, weight.flatten(1))
    mass = averages.sum(2)
    counts = mass >= loss.min_mass
    averages = averages / torch.where(counts, mass, 1)[..., None]

    psi, t = loss.basis(pred).flatten(2), target.flatten(2)
    a = torch.einsum("brx,bix,bjx->brij", averages, psi, psi)
    c = torch.einsum("brx,bix,btx->brit", averages, psi, t)
    b = torch.einsum("brx,btx->brt", averages, t**2)
    if loss.form == "normalized":
        mean_psi = torch.einsum("brx,bix->bri", averages, psi)
        mean_t = torch.einsum("brx,btx->brt", averages, t)
        deviation = (b - mean_t**2 + loss.eps).sqrt() + loss.eps
        c = (c - mean_psi[..., None] * mean_t[:, :, None]) / deviation[:, :, None]
        b = torch.ones_like(b)
    theta = torch.linalg.solve(a + loss.ridge * torch.eye(a.shape[-1]).to(a), c)
    # residual of the fit itself, spelled out: the ridge enters theta only
    residual = b - 2 * (c * theta).sum(2) + torch.einsum("brit,brij,brjt->brt", theta, a, theta)
    values = residual if loss.form == "normalized" else torch.log(residual + loss.eps)
    if loss.form == "robust":
        variance = b - torch.einsum("brx,btx->brt", averages, t) ** 2 + loss.eps
        contrast = (1 - loss.eps / variance).detach() * counts[..., None]
        share = residual / variance
        scale = (share * contrast).sum(1, keepdim=True) / contrast.sum(1, keepdim=True).clamp_min(1e-12)
        scale = scale.detach().clamp_min(1e-3)
        values = 2 * scale.sqrt() * (1 + share / scale).log()
    return torch.where(counts[..., None], values, 0).movedim(2, 1), counts


def reference(
    loss: LocalLearnedBasisCRLoss,
    pred: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    shift: Sequence[float] | None = None,
) -> torch.Tensor:
    """Mean over the windows that count and the target channels of each item, then over items."""
    values, counts = window_values(loss, pred, target, mask, shift)
    return (values.sum((1, 2)) / (counts.sum(1).clamp_min(1) * target.shape[1])).mean()


def next_shift(loss: LocalLearnedBasisCRLoss, seed: int, shape: Sequence[int]) -> list[float]:
    """Shift of the windows in the next call under `torch.manual_seed(seed)`: uniform within half a stride."""
    if not loss.training:
        return [0.0] * loss.spatial_dims
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(loss.spatial_dims, dtype=torch.float64, generator=generator).tolist()
    return [(u - 0.5) * s for u, s in zip(uniform, strides(loss, shape), strict=True)]
