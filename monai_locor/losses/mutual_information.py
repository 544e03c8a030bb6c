# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Global mutual information by Parzen windows, plain and normalized."""

from __future__ import annotations

import torch
from monai.utils import LossReduction, look_up_option

from .options import BinOptions, RangeOptions
from .parzen import joint_histogram
from .parzen_loss import ParzenLoss

__all__ = ["MutualInformationLoss"]


class MutualInformationLoss(ParzenLoss):
    """Mutual information of the joint histogram of two images, negated.

    With the Parzen weights ``w_ik`` of voxel i on bin k, ``p(k, l)`` is the mean of ``w_ik w'_il`` and

        MI  = sum_kl p(k, l) log[(p(k, l) + eps) / (p(k) p(l) + eps) + eps]
        NMI = (H(pred) + H(target)) / H(pred, target)

    MI has the value of ``monai.losses.GlobalMutualInformationLoss`` (Gaussian window). That loss takes images in [0, 1],
    supports no mask and holds the weights of all voxels. Here they are streamed, in the forward and in the backward pass.

    Reference: Guo, "Multi-modal image registration with unsupervised deep learning", MIT 2019, section 3.1,
    https://dspace.mit.edu/handle/1721.1/123142; the normalized form: Studholme et al., Pattern Recognition 32, 1999,
    doi 10.1016/S0031-3203(98)00091-0.

    Args:
        spatial_dims: 1, 2 or 3.
        num_bins: bins of each image.
        form: ``"mutual_information"`` or ``"normalized"``.
        kernel_type: Parzen window, ``"gaussian"`` or ``"spline"`` (see :class:`~monai_locor.losses.parzen.SplineParzen`).
        sigma_ratio: standard deviation of the Gaussian, in distances between bins.
        reduction: ``"mean"`` over channels and items; ``"sum"``; or ``"none"``, ``(B, C)``.
        rescale: bring both images to [0, 1] between quantiles of the voxels with weight; otherwise clamp them.
        quantile: share of voxels below the low and above the high end.
        freeze_range: keep the ends of the first call until :meth:`reset_range`.
        count_masked: as in the published comparison, images are multiplied by the mask and *all* voxels are
            counted, those outside the mask as pairs of zeros, which rewards overlap. By default voxels of weight zero have no
            influence.
        eps: keeps the logarithm finite.

    Returns:
        A scalar, to be minimized: about ``[-log(num_bins), 0]`` for MI, ``[-2, -1]`` for NMI.

    Example:
        >>> image = torch.rand(1, 1, 20, 20)
        >>> loss = MutualInformationLoss(spatial_dims=2)
        >>> bool(loss(1 - image, image) < loss(torch.rand(1, 1, 20, 20), image))
        True
    """

    count_masked: bool

    def __init__(
        self,
        spatial_dims: int = 3,
        num_bins: int = 23,
        form: str = "mutual_information",
        kernel_type: str = "gaussian",
        sigma_ratio: float = 0.5,
        reduction: LossReduction | str = LossReduction.MEAN,
        rescale: bool = True,
        quantile: float = 0.005,
        freeze_range: bool = False,
        count_masked: bool = False,
        eps: float = 1e-5,
    ) -> None:
        bins, intensities = BinOptions(num_bins, kernel_type, sigma_ratio), RangeOptions(rescale, quantile, freeze_range)
        super().__init__(spatial_dims, reduction, bins, intensities, eps=eps, count_masked=count_masked)
        self.form = look_up_option(form, ("mutual_information", "normalized"))

    def _measure(
        self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        pred, target = self._unit(pred, target, weight)
        if self.count_masked:
            pred, target, weight = pred * weight, target * weight, torch.ones_like(weight)
        weight = self._flat(weight.expand_as(pred))
        joint = joint_histogram(self.parzen, self.parzen, self._flat(pred), self._flat(target), weight)
        total = weight.sum(1).view(-1, 1, 1)
        joint = joint / torch.where(total > 0, total, 1)
        value = self._mutual_information(joint) if self.form == "mutual_information" else self._normalized(joint)
        return -value.view(pred.shape[:2]), None

    def _mutual_information(self, joint: torch.Tensor) -> torch.Tensor:
        independent = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
        return (joint * torch.log((joint + self.eps) / (independent + self.eps) + self.eps)).sum((1, 2))

    def _normalized(self, joint: torch.Tensor) -> torch.Tensor:
        single = self._entropy(joint.sum(2)) + self._entropy(joint.sum(1))
        return (single + self.eps) / (self._entropy(joint.flatten(1)) + self.eps)

    def _entropy(self, p: torch.Tensor) -> torch.Tensor:
        """Entropy along the last axis; never negative."""
        return -(p * torch.log((p + self.eps) / (1 + self.eps))).sum(-1)
