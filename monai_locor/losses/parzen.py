# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parzen windows over intensities, and joint histograms, streamed through the voxels.

An intensity in [0, 1] is encoded by its weights on a few bins. The weights of all voxels at once would be the largest
tensor of a registration. They exist for one portion of the voxels at a time, in the forward pass and again in the backward
pass. Only the images and one small matrix are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from monai.utils import look_up_option

from ..autograd import StreamedFunction
from ..precision import full_precision
from .options import check_positive

__all__ = ["Encoder", "GaussianParzen", "Powers", "SplineParzen", "joint_histogram", "make_parzen", "spline_moments"]

PORTION_VOXELS = {"cpu": 1 << 14, "cuda": 1 << 18}  # voxels encoded at once: the processor's cache; large launches on a GPU
MIN_GAUSSIAN_EXPONENT = -36.0  # of a Gaussian weight: exp(-36) is below float64's rounding error of the largest one
MIN_SIGMA_RATIO = 0.1  # bins: all weights of a narrower Gaussian could vanish between two bins


class Encoder(Protocol):
    """Code of an intensity, a few numbers, and its derivative."""

    size: int

    def encode(self, u: torch.Tensor) -> torch.Tensor:
        """``(G, N)`` to ``(G, size, N)``."""

    def pullback(self, grad: torch.Tensor, code: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Gradient of u, ``(G, N)``, from that of its code; may overwrite ``grad``."""


class GaussianParzen:
    """Gaussians around bin centers ``k / (K - 1)``, normalized over the bins.

    Source: Guo 2019, https://dspace.mit.edu/handle/1721.1/123142, section 3.1; also MONAI and DeepReg.

    Args:
        size: number of bins K, at least two.
        sigma_ratio: standard deviation of the Gaussian, in distances between bins.
    """

    def __init__(self, size: int, sigma_ratio: float = 0.5) -> None:
        self.size, self.precision = size, 1 / sigma_ratio**2

    def encode(self, u: torch.Tensor) -> torch.Tensor:
        """``(G, N)`` to ``(G, K, N)``, columns of sum one."""
        bins = torch.arange(self.size, device=u.device, dtype=u.dtype)[:, None]
        code = ((self.size - 1) * u)[:, None] - bins
        # smaller weights do not matter, but exp is many times slower where it underflows, as are products of denormals
        code.square_().mul_(-0.5 * self.precision).clamp_min_(MIN_GAUSSIAN_EXPONENT).exp_()
        return code.div_(code.sum(1, keepdim=True))

    def pullback(self, grad: torch.Tensor, code: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The derivative of weight k is ``w_k (b_k - mean of b under w) / sigma^2``."""
        bins = torch.arange(self.size, device=u.device, dtype=u.dtype) - (self.size - 1) / 2
        mean = torch.matmul(bins, code)
        moments = torch.matmul(torch.stack([torch.ones_like(bins), bins]), grad.mul_(code))
        return moments[:, 1].addcmul(moments[:, 0], mean, value=-1).mul_((self.size - 1) * self.precision)


class SplineParzen:
    """Piecewise quadratic window over the two nearest bins, a partition of unity.

    With the distance t to a bin, in bins: ``1 - 0.1 t - 1.8 t^2`` below one half, ``1.9 - 3.7 t + 1.8 t^2`` from there to one.
    Source: Xu et al. 2008, as used by Gong et al. 2018.

    Args:
        size: number of bins K, at least two.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, u: torch.Tensor) -> torch.Tensor:
        """``(G, N)`` to ``(G, K, N)``, columns of sum one."""
        low, rest = _bin(u, self.size)
        upper, index = _step(rest)[:, None], low.long()[:, None]
        code = u.new_zeros(len(u), self.size, u.shape[1])
        return code.scatter_(1, index, 1 - upper).scatter_(1, index + 1, upper)

    def pullback(self, grad: torch.Tensor, code: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The weights of two bins change by opposite amounts."""
        low, rest = _bin(u, self.size)
        index = low.long()[:, None]
        slope = 0.1 + 3.6 * torch.minimum(rest, 1 - rest)
        return (grad.gather(1, index + 1) - grad.gather(1, index))[:, 0] * slope * (self.size - 1)


class Powers:
    """``1, u, u^2``: with this code, a histogram holds mass, sum and sum of squares of each bin."""

    size = 3

    def encode(self, u: torch.Tensor) -> torch.Tensor:
        """``(G, N)`` to ``(G, 3, N)``."""
        return torch.stack([torch.ones_like(u), u, u.square()], 1)

    def pullback(self, grad: torch.Tensor, code: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Derivatives 0, 1 and 2 u."""
        return torch.addcmul(grad[:, 1], grad[:, 2], u, value=2)


def make_parzen(kernel_type: str, num_bins: int, sigma_ratio: float) -> GaussianParzen | SplineParzen:
    """Make the Parzen window of a name.

    Raises:
        ValueError: for an unknown name, fewer than two bins, or a Gaussian narrower than a tenth of a bin.
    """
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 2:
        raise ValueError(f"num_bins must be an integer of at least 2, got {num_bins}.")
    check_positive(sigma_ratio=sigma_ratio)
    if sigma_ratio < MIN_SIGMA_RATIO:
        raise ValueError(f"sigma_ratio must be at least {MIN_SIGMA_RATIO}, got {sigma_ratio}.")
    if look_up_option(kernel_type, ("gaussian", "spline")) == "spline":
        return SplineParzen(num_bins)
    return GaussianParzen(num_bins, sigma_ratio)


def spline_moments(u: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``sum_k b_k w_k(u)`` and ``sum_k b_k^2 w_k(u)`` of :class:`SplineParzen`, ``b_k = k / (size - 1)``."""
    low, rest = _bin(u, size)
    upper = _step(rest)
    return (low + upper) / (size - 1), (low.square() + (2 * low + 1) * upper) / (size - 1) ** 2


def _bin(u: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The bin below, without gradient, and the distance from it, in bins."""
    t = (size - 1) * u
    low = t.detach().floor().clamp(0, size - 2)
    return low, t - low


def _step(rest: torch.Tensor) -> torch.Tensor:
    """Weight of the bin above."""
    near = torch.minimum(rest, 1 - rest)
    value = near * (0.1 + 1.8 * near)
    return torch.where(rest < 0.5, value, 1 - value)


def joint_histogram(rows: Encoder, columns: Encoder, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``H_kl = sum_i weight_i rows_k(x_i) columns_l(y_i)``, differentiable in x and y.

    Args:
        rows: code of x, of size K.
        columns: code of y, of size L.
        x: ``(G, N)``, in [0, 1].
        y: ``(G, N)``.
        weight: ``(G, N)``, not differentiated.

    Returns:
        ``(G, K, L)``, summed in float64, in the dtype of x.
    """
    return _JointHistogram.apply(rows, columns, x, y, weight)


def _portions(x: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of items and voxels in about equal portions: several small items, or parts of one large item."""
    items, voxels = x.shape
    most = PORTION_VOXELS.get(x.device.type, PORTION_VOXELS["cpu"])
    length, group = min(voxels, most), max(1, most // voxels)
    for i in range(0, items, group):
        for start in range(0, voxels, length):
            yield slice(i, i + group), slice(start, start + length)


class _JointHistogram(StreamedFunction):
    leading = (2, 3, 4)
    differentiable = (2, 3)

    @staticmethod
    def forward(rows: Encoder, columns: Encoder, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = x.new_zeros(len(x), rows.size, columns.size, dtype=torch.float64)
        for part in _portions(x):
            weighted = rows.encode(x[part]).mul_(weight[part][:, None])
            out[part[0]] += torch.bmm(weighted, columns.encode(y[part]).mT)
        return out.to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = {"rows": inputs[0], "columns": inputs[1]}
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, columns = ctx.options["rows"], ctx.options["columns"]
        x, y, weight = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[2:4]
        dx, dy = (torch.empty_like(z) if need else None for z, need in ((x, need_x), (y, need_y)))
        with full_precision(x.device):
            for part in _portions(x):
                row, column, g = rows.encode(x[part]), columns.encode(y[part]), grad[part[0]]
                if dx is not None:
                    dx[part] = rows.pullback(torch.bmm(g, column), row, x[part]).mul_(weight[part])
                if dy is not None:
                    dy[part] = columns.pullback(torch.bmm(g.mT, row), column, y[part]).mul_(weight[part])
        return None, None, dx, dy, None
