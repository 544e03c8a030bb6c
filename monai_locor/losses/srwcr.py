# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The spatially region-weighted correlation ratio."""

from __future__ import annotations

from functools import partial

import torch
from monai.utils import LossReduction

from ..recent import Recent
from .local_parzen import LocalParzen, local_parzen
from .options import BinOptions, RangeOptions
from .parzen import spline_moments
from .parzen_loss import ParzenLoss
from .streaming import StreamedWindows, slab_budget
from .windows import GridPlan, WindowPlan

__all__ = ["SRWCRLoss"]


class SRWCRLoss(ParzenLoss):
    """Spatially region-weighted correlation ratio: one minus the correlation ratio of regions, weighted by their mass.

    With the Parzen weights h (see :class:`~monai_locor.losses.parzen.SplineParzen`), bins a of the prediction and b of the
    target, and cubic B-spline regions r every ``spacing`` voxels,

        P_r(a, b) = sum_x w_r(x) h_a(pred(x)) h_b(target(x)) mask(x), divided by the sum of all,
        p(a, b | r) = P_r(a, b) / (P_r + eps), with its marginals; mu_r, sigma_r^2 mean and variance of b under p(b | r),
        mu_ra = sum_b b p(a, b | r) / (p(a | r) + eps),
        loss = sum_r sum_ab P_r(a, b) (b^2 - mu_ra^2) / (sigma_r^2 + eps).

    Only the first two moments over b enter, and h_a sums to one over a. Therefore masses and first moments, two maps per bin,
    replace the joint histograms of all regions. Bin centers b are in units of the target's range, which makes the value
    independent of an affine change of intensity. ``sigma_r^2`` is taken around ``mu_r``.

    Reference: Gong et al., "Non-rigid image registration using spatially region-weighted correlation ratio and
    GPU-acceleration", 2018, with the Parzen window of Xu et al. 2008.

    Args:
        spatial_dims: 1, 2 or 3.
        num_bins: bins of each image.
        spacing: distance of the regions, voxels; a region is four times as long. Published: 3 to 5. Memory is ``2 K + 1``
            numbers per region and a few times as many for the gradient: little at these spacings, much at 1.
        reduction: ``"mean"``, the loss above, averaged over channels and items; or ``"none"``, ``(B, C, *regions)``, each
            region's term times the number of regions with weight, so that the loss is the mean of the terms; or ``"sum"`` of
            these.
        rescale: lay the bins between the ends of each image's intensities; otherwise on [0, 1].
        quantile: share of voxels below the low and above the high end; 0, minimum and maximum, as published.
        freeze_range: keep the ends of the first call until :meth:`reset_range`; as published, they are found in every call.
        eps: floor of probabilities and variances.
        memory_budget_mb: MiB that a call may hold in addition to inputs, results and window sums; by default 20 on a
            CPU and 2048 on a GPU.

    Returns:
        A scalar in [0, 1], to be minimized; 0 if no voxel has weight.

    Example:
        >>> regions = SRWCRLoss(spatial_dims=2, spacing=5, reduction="none")
        >>> regions(torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20)).shape
        torch.Size([1, 1, 5, 5])
    """

    spacing: int

    def __init__(
        self,
        spatial_dims: int = 3,
        num_bins: int = 32,
        spacing: int = 4,
        reduction: LossReduction | str = LossReduction.MEAN,
        rescale: bool = True,
        quantile: float = 0.0,
        freeze_range: bool = False,
        eps: float = 1e-6,
        memory_budget_mb: float | None = None,
    ) -> None:
        bins, intensities = BinOptions(num_bins, "spline", 1.0), RangeOptions(rescale, quantile, freeze_range)
        regions = {"spacing": spacing, "eps": eps, "memory_budget_mb": memory_budget_mb}
        super().__init__(spatial_dims, reduction, bins, intensities, **regions)
        self.spacing = int(spacing)
        self._plans = Recent[GridPlan](8)

    def _measure(
        self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        pred, target = self._unit(pred, target, weight)
        key = (tuple(pred.shape[2:]), self.spacing, pred.device, pred.dtype)
        plan = self._plans.get(key, partial(_regions, *key))
        windows = StreamedWindows(plan.centered, slab_budget(pred.device, self.memory_budget_mb))
        f, s = spline_moments(target, self.num_bins)
        maps = local_parzen(LocalParzen(self.parzen), windows, *(x.flatten(0, 1) for x in (pred, f, s, weight.expand_as(pred))))
        total = maps["mass"].flatten(1).sum(1)
        scale = 1 / torch.where(total > 0, total, 1)
        # the mass is that of the weights alone: no gradient passes through it
        terms = self._terms(*(m * scale.view(-1, *(1,) * (m.ndim - 1)) for m in maps.values()))
        counts = maps["mass"].detach().sum(1) > 0
        terms = terms * counts.flatten(1).sum(1).view(-1, *(1,) * (terms.ndim - 1))
        shape = (*pred.shape[:2], *terms.shape[1:])
        return terms.view(shape), counts.view(shape)

    def _terms(self, mass: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Term of each region, from ``P_r(a)`` and ``sum_b b P_r(a, b)``, bins along axis 1, and ``sum_ab b^2 P_r(a, b)``."""
        region = mass.sum(1)
        share = region + self.eps
        mean = first.sum(1) / share
        mean_of_bin = first / (mass + self.eps * share[:, None])
        # p(. | r) sums to region / share, a little less than one
        variance = second / share - mean.square() * (2 - region / share)
        residual = second - (mass * mean_of_bin.square()).sum(1)
        return residual.clamp_min(0) / (variance.clamp_min(0) + self.eps)


def _regions(shape: tuple[int, ...], spacing: int, device: torch.device, dtype: torch.dtype) -> GridPlan:
    """The regions of images of a shape."""
    return GridPlan([WindowPlan.spline(size, spacing) for size in shape], [False] * len(shape), device, dtype)
