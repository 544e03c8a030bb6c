# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Base of the measures that are made of Parzen windows: where their bins lie."""

from __future__ import annotations

import torch
from monai.utils import LossReduction

from .base import PairLoss
from .intensity import LEAST_SPAN, robust_range
from .parzen import make_parzen

__all__ = ["ParzenLoss"]

Limits = tuple[torch.Tensor, torch.Tensor]  # low and high intensity, (B, C) float64 each


class ParzenLoss(PairLoss):
    """Intensities are brought to [0, 1] between two quantiles of the voxels that count, and clamped; bins lie on [0, 1].

    Args:
        spatial_dims: 1, 2 or 3.
        num_bins: bins, two at least.
        kernel_type: Parzen window, ``"gaussian"`` (normalised over the bins) or ``"spline"`` (two bins wide).
        sigma_ratio: standard deviation of the Gaussian, in distances between bins.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        rescale: whether to do so; without it intensities are taken as they are and clamped to [0, 1].
        quantile: share of voxels below the low and above the high end, in [0, 0.5); 0 is minimum and maximum.
        freeze_range: keep the ends found in the first call until :meth:`reset_range`, as within a stage of a registration;
            otherwise they are found anew in every call. They never carry a gradient.
    """

    def __init__(
        self,
        spatial_dims: int,
        num_bins: int,
        kernel_type: str,
        sigma_ratio: float,
        reduction: LossReduction | str,
        rescale: bool,
        quantile: float,
        freeze_range: bool,
    ) -> None:
        super().__init__(spatial_dims, reduction)
        if not 0 <= quantile < 0.5:
            raise ValueError(f"quantile must be in [0, 0.5), got {quantile}.")
        self.num_bins, self.parzen = num_bins, make_parzen(kernel_type, num_bins, sigma_ratio)
        self.rescale, self.quantile, self.freeze_range = rescale, quantile, freeze_range
        self._frozen: tuple[Limits, Limits] | None = None

    def reset_range(self) -> None:
        """Forget frozen intensity ranges; the next call finds and keeps new ones."""
        self._frozen = None

    def _unit(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both images in [0, 1]."""
        if not self.rescale:
            return pred.clamp(0, 1), target.clamp(0, 1)
        limits = self._frozen
        if limits is None:
            valid = weight > 0
            limits = _limits(pred, valid, self.quantile), _limits(target, valid, self.quantile)
            if self.freeze_range:
                self._frozen = limits
        shape = limits[0][0].shape
        if shape != pred.shape[:2]:
            raise ValueError(
                f"the frozen intensity range is of {tuple(shape)} items and channels, pred has {tuple(pred.shape[:2])}; "
                "call reset_range() first."
            )
        return _to_unit(pred, *limits[0]), _to_unit(target, *limits[1])


def _limits(image: torch.Tensor, valid: torch.Tensor, quantile: float) -> Limits:
    if quantile > 0:
        return robust_range(image, valid, quantile)
    axes = tuple(range(2, image.ndim))
    low = torch.where(valid, image.detach(), torch.inf).amin(axes).double()
    high = torch.where(valid, image.detach(), -torch.inf).amax(axes).double()
    some = high >= low
    return torch.where(some, low, 0), torch.where(some, high, 0)


def _to_unit(image: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """``(x - low) / (high - low)`` clamped to [0, 1]; 0 for an image that is constant."""
    low, high = low.to(image.device), high.to(image.device)
    span = high - low
    varies = span > LEAST_SPAN
    scale = torch.where(varies, 1 / torch.where(varies, span, 1), 0)
    shape = (*low.shape, *(1 for _ in image.shape[2:]))
    # the offset is taken off first: at 1e4 the product would have no digits left
    return ((image - low.to(image.dtype).view(shape)) * scale.to(image.dtype).view(shape)).clamp(0, 1)
