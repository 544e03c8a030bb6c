# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The local correlation ratio by Parzen windows, on a grid of windows or in random patches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.utils import LossReduction, ensure_tuple_rep

from .functional import average_by_mass, one_minus_correlation_ratio
from .local_parzen import LocalParzen, local_parzen
from .options import BinOptions, RangeOptions, WindowOptions
from .parzen import Powers, joint_histogram
from .parzen_loss import ParzenLoss
from .window_grid import WindowGrid

__all__ = ["LocalParzenCRLoss"]


class LocalParzenCRLoss(ParzenLoss):
    """One minus the correlation ratio of the target on the prediction in windows, averaged.

    In every window the target is modeled as an arbitrary function of the prediction, one value per bin. The bins take the
    place of the few basis functions of :class:`~monai_locor.losses.LocalLearnedBasisCRLoss`.

    With ``num_patches`` it is RaPTOR: the average over that many patches at random positions, drawn in every call in
    ``train()`` and fixed in ``eval()``.

    Reference: Rivaz, Chen & Collins, "Automatic deformable MR-ultrasound registration for image-guided neurosurgery"
    (RaPTOR), IEEE Transactions on Medical Imaging, 2015.

    Args:
        spatial_dims: 1, 2 or 3.
        num_bins: bins of the prediction.
        kernel_type: Parzen window, ``"gaussian"`` or ``"spline"``.
        sigma_ratio: standard deviation of the Gaussian, in distances between bins.
        kernel_sigma: standard deviation of the Gaussian spatial window, voxels, one value or one per axis.
        truncated: where the spatial window ends, in standard deviations.
        stride: distance between windows, voxels, one value or one per axis; above 1 the grid is shifted at random by up
            to half a stride in every call in ``train()`` and centered in ``eval()``. Memory is ``2 K + 1`` numbers per
            window and a few times as many for the gradient, little at strides of 2 and more.
        num_patches: number of random patches that replace the windows; None for windows.
        patch_size: edge of a patch, voxels, one value or one per axis.
        reduction: ``"mean"`` over windows, channels and items; ``"sum"``; or ``"none"``, ``(B, C, *windows)`` or
            ``(B, C, num_patches)``, with 0 where a window does not count.
        rescale: bring both images to [0, 1] between quantiles of the voxels with weight; otherwise clamp them.
        quantile: share of voxels below the low and above the high end.
        freeze_range: keep the ends of the first call until :meth:`reset_range`.
        eps: floor of the variance of the target in [0, 1].
        min_mass: a window counts when the weighted mean of ``mask`` over its voxels is at least this.
        memory_budget_mb: MiB that a call may hold in addition to inputs, results and window sums; by default 20 on a
            CPU and 2048 on a GPU. It does not limit patches: each of their voxels takes about ten numbers.
        generator: CPU random generator of shift and patches; by default torch's global one.

    Returns:
        A scalar in [0, 1], to be minimized.

    Example:
        >>> patches = LocalParzenCRLoss(spatial_dims=2, num_patches=50)  # RaPTOR
        >>> patches(torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20)).shape
        torch.Size([])
    """

    num_patches: int | None
    patch_size: tuple[int, ...]

    def __init__(
        self,
        spatial_dims: int = 3,
        num_bins: int = 16,
        kernel_type: str = "gaussian",
        sigma_ratio: float = 0.5,
        kernel_sigma: float | Sequence[float] = 2.0,
        truncated: float = 3.0,
        stride: float | Sequence[float] = 3,
        num_patches: int | None = None,
        patch_size: int | Sequence[int] = 7,
        reduction: LossReduction | str = LossReduction.MEAN,
        rescale: bool = True,
        quantile: float = 0.005,
        freeze_range: bool = False,
        eps: float = 1e-5,
        min_mass: float = 0.25,
        memory_budget_mb: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        bins, intensities = BinOptions(num_bins, kernel_type, sigma_ratio), RangeOptions(rescale, quantile, freeze_range)
        windows = WindowOptions(kernel_sigma, truncated, stride, min_mass, memory_budget_mb, generator)
        patches = {"num_patches": num_patches, "patch_size": patch_size}
        super().__init__(spatial_dims, reduction, bins, intensities, windows, eps=eps, **patches)
        self.patch_size = ensure_tuple_rep(patch_size, spatial_dims)
        self.grid = WindowGrid.make(spatial_dims, "gaussian", 1, kernel_sigma, truncated, stride)

    def _measure(
        self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        pred, target = self._unit(pred, target, weight)
        images = [x.flatten(0, 1) for x in (pred, target, weight.expand_as(pred))]
        moments = self._on_grid(*images) if self.num_patches is None else self._in_patches(*images)
        maps, counts = average_by_mass(moments, moments[:, : self.num_bins].sum(1, keepdim=True).detach(), self.min_mass)
        mass, first, second = maps.split([self.num_bins, self.num_bins, 1], 1)
        values = one_minus_correlation_ratio(mass, first, second[:, 0], self.eps)
        shape = (*pred.shape[:2], *values.shape[1:])
        return values.view(shape), counts.view(shape)

    def _on_grid(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Averages of mass and first moment of each bin and of the second moment, ``(G, 2 K + 1, *windows)``."""
        windows = self._windows(pred[:, None])
        maps = local_parzen(LocalParzen(self.parzen), windows, pred, target, target.square(), weight)
        return torch.cat([maps["mass"], maps["first"], maps["second"][:, None]], 1)

    def _in_patches(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The same averages over patches, ``(G, 2 K + 1, patches)``."""
        voxels = self._patches(pred.shape[1:]).to(pred.device, non_blocking=True)
        parts = [x.flatten(1)[:, voxels].flatten(0, 1) for x in (pred, target, weight)]
        moments = joint_histogram(self.parzen, Powers(), *parts) / voxels.shape[1]
        mass, first, second = moments.unbind(2)
        return torch.cat([mass, first, second.sum(1, keepdim=True)], 1).unflatten(0, (len(pred), -1)).movedim(1, -1)

    def _patches(self, shape: Sequence[int]) -> torch.Tensor:
        """Flat indices of the voxels of random patches, ``(patches, voxels)``, drawn on the host."""
        fixed = np.random.default_rng(0)  # torch.func.vmap takes random numbers of torch for different ones of each item
        index = torch.zeros(self.num_patches or 0, 1, dtype=torch.long, device="cpu")
        for axis, (size, patch) in enumerate(zip(shape, self.patch_size, strict=True)):
            edge = min(patch, size)
            if self.training:
                start = torch.randint(size - edge + 1, (len(index), 1), generator=self.generator, device="cpu")
            else:
                start = torch.from_numpy(fixed.integers(size - edge + 1, size=(len(index), 1)))
            along = (start + torch.arange(edge, device="cpu")) * math.prod(shape[axis + 1 :])
            index = (index[:, :, None] + along[:, None]).flatten(1)
        return index
