# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The global correlation ratio by Parzen windows."""

from __future__ import annotations

import torch
from monai.utils import LossReduction

from .functional import one_minus_correlation_ratio
from .options import BinOptions, RangeOptions
from .parzen import Powers, joint_histogram
from .parzen_loss import ParzenLoss

__all__ = ["CorrelationRatioLoss"]


class CorrelationRatioLoss(ParzenLoss):
    """One minus the correlation ratio of the target on the prediction, over the whole image.

    The target is modeled as an arbitrary function of the prediction, one value per bin. The loss is the share of the target's
    variance that this model does not explain.

    Reference: Roche et al., "The correlation ratio as a new similarity measure for multimodal image registration",
    MICCAI 1998, doi 10.1007/BFb0056301.

    Args:
        spatial_dims: 1, 2 or 3.
        num_bins: bins of the prediction.
        kernel_type: Parzen window, ``"gaussian"`` or ``"spline"``.
        sigma_ratio: standard deviation of the Gaussian, in distances between bins.
        reduction: ``"mean"`` over channels and items; ``"sum"``; or ``"none"``, ``(B, C)``.
        rescale: bring both images to [0, 1] between quantiles of the voxels with weight; otherwise clamp them.
        quantile: share of voxels below the low and above the high end.
        freeze_range: keep the ends of the first call until :meth:`reset_range`.
        eps: floor of the variance of the target in [0, 1].

    Returns:
        A scalar in [0, 1], to be minimized; 0 if no voxel has weight.

    Example:
        >>> image = torch.linspace(0, 1, 400).reshape(1, 1, 20, 20)
        >>> loss, wave = CorrelationRatioLoss(spatial_dims=2), (6 * image).cos()  # a function of the image, not vice versa
        >>> print(*(round(float(loss(pred, target)), 1) for pred, target in ((image, wave), (wave, image))))
        0.0 0.9
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        num_bins: int = 32,
        kernel_type: str = "gaussian",
        sigma_ratio: float = 0.5,
        reduction: LossReduction | str = LossReduction.MEAN,
        rescale: bool = True,
        quantile: float = 0.005,
        freeze_range: bool = False,
        eps: float = 1e-5,
    ) -> None:
        bins, intensities = BinOptions(num_bins, kernel_type, sigma_ratio), RangeOptions(rescale, quantile, freeze_range)
        super().__init__(spatial_dims, reduction, bins, intensities, eps=eps)

    def _measure(
        self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        pred, target = self._unit(pred, target, weight)
        weight = self._flat(weight.expand_as(pred))
        moments = joint_histogram(self.parzen, Powers(), self._flat(pred), self._flat(target), weight)
        total = weight.sum(1).view(-1, 1, 1)
        mass, first, second = (moments / torch.where(total > 0, total, 1)).unbind(2)
        return one_minus_correlation_ratio(mass, first, second.sum(1), self.eps).view(pred.shape[:2]), None
