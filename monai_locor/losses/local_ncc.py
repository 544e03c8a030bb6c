# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local normalized cross-correlation from streamed window averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import LossReduction
from torch import nn

from ..autograd import StreamedFunction
from .base import PairLoss
from .functional import has_mass, safe_mass
from .gram import local_gram
from .intensity import rescale as to_common_range
from .options import WindowOptions
from .products import LocalGram
from .window_grid import WindowGrid

__all__ = ["LocalNCCLoss"]


class LocalNCCLoss(PairLoss):
    """Squared correlation coefficient of two images in windows, averaged and negated.

    It has the value of ``monai.losses.LocalNormalizedCrossCorrelationLoss`` where that is well-conditioned. In addition,
    windows end at the image border instead of being padded with zeros, voxels can be masked, and intensities are rescaled,
    so that an offset cannot cancel the variances.

    Reference: Avants et al., "Symmetric diffeomorphic image registration with cross-correlation", Medical Image Analysis
    12, 2008, doi 10.1016/j.media.2007.06.004.

    Args:
        spatial_dims: 1, 2 or 3.
        kernel_type: ``"rectangular"`` or ``"gaussian"`` windows.
        kernel_size: edge of the rectangular window, voxels.
        kernel_sigma: standard deviation of the Gaussian window, voxels, one value or one per axis.
        truncated: where the Gaussian window ends, in standard deviations.
        stride: distance between windows, voxels, one value or one per axis. Above 1 the grid is shifted at random by up
            to half a stride in every call in ``train()`` and centered in ``eval()``.
        reduction: ``"mean"`` over windows, channels and items; ``"sum"``; or ``"none"``, the map over windows,
            ``(B, C, *windows)``, with 0 where a window does not count; see ``return_weights`` of :meth:`forward`.
        rescale: bring both images to about [0, 1] between robust quantiles.
        eps: added to both variances.
        min_mass: a window counts when the weighted mean of ``mask`` over its voxels is at least this.
        memory_budget_mb: MiB that a call may hold in addition to inputs, results and window sums; by default 20 on a
            CPU and 2048 on a GPU.
        generator: CPU random generator of the window shift; by default torch's global one.

    Returns:
        A scalar in about [-1, 0], to be minimized.

    Example:
        >>> image = torch.rand(1, 1, 20, 20)
        >>> round(float(LocalNCCLoss(spatial_dims=2)(3 - 2 * image, image)), 2)
        -1.0
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        kernel_type: str = "rectangular",
        kernel_size: int = 9,
        kernel_sigma: float | Sequence[float] = 2.0,
        truncated: float = 3.0,
        stride: float | Sequence[float] = 1,
        reduction: LossReduction | str = LossReduction.MEAN,
        rescale: bool = True,
        eps: float = 1e-5,
        min_mass: float = 0.25,
        memory_budget_mb: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        windows = WindowOptions(kernel_sigma, truncated, stride, min_mass, memory_budget_mb, generator)
        super().__init__(
            spatial_dims, reduction, windows, kernel_type=kernel_type, kernel_size=kernel_size, rescale=rescale, eps=eps
        )
        self.grid = WindowGrid.make(spatial_dims, kernel_type, kernel_size, kernel_sigma, truncated, stride)

    def _measure(
        self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch = pred.shape[:2]
        if self.rescale:
            pred, target = (to_common_range(x, weight > 0) for x in (pred, target))
        windows = self._windows(pred)
        gram = LocalGram(nn.Identity(), 1, 1, masked=True, first_moments=True)
        pred, target, weight = (x.flatten(0, 1)[:, None] for x in (pred, target, weight.expand_as(pred)))
        maps = local_gram(gram, windows, pred, target, weight)
        mass = maps[:, gram.layout["mass"]].detach()
        counts = has_mass(mass, self.min_mass)
        values = -_SquaredCorrelation.apply(self.eps, maps, 1 / safe_mass(mass, self.min_mass))
        return values.view(*batch, *values.shape[1:]), counts.view(*batch, *counts.shape[2:])


class _SquaredCorrelation(StreamedFunction):
    """``c^2 / ((u + eps) (v + eps))`` of windows, c covariance, u and v variances, ``(G, *windows)``.

    Made from the maps of :class:`LocalGram` for one channel of ``psi`` and ``t``, ``(G, 6, *windows)``, and the reciprocal
    of their mass. Only these are kept for the backward pass.
    """

    leading = (1, 2)
    differentiable = (1,)

    @staticmethod
    def forward(eps: float, maps: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        _, _, c, u, v = _moments(maps, scale[:, 0])
        u, v = (x.clamp_min_(0).add_(eps) for x in (u, v))
        return c.square_().div_(u).div_(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = {"eps": inputs[0]}
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps, scale = ctx.saved_tensors
        p, t, c, u, v = _moments(maps, scale[:, 0])
        free = u > 0, v > 0
        u, v = (x.clamp_min_(0).add_(ctx.options["eps"]) for x in (u, v))
        dc = 2 * grad * c / u / v
        du, dv = (-0.5 * dc * c / x * inside for x, inside in zip((u, v), free, strict=True))
        dp, dt = -2 * p * du - t * dc, -2 * t * dv - p * dc
        return None, torch.stack([du, dc, dv, dp, dt, torch.zeros_like(dc)], 1).mul_(scale), None


def _moments(maps: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Means of both images, covariance and variances, in the order p, t, c, u, v."""
    pp, pt, tt, p, t = (maps[:, row] * scale for row in range(5))
    return p, t, pt.addcmul_(p, t, value=-1), pp.addcmul_(p, p, value=-1), tt.addcmul_(t, t, value=-1)
