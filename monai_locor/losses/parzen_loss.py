# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Base of the measures that are made of Parzen windows: where their bins lie."""

from __future__ import annotations

from typing import Any

import torch
from monai.utils import LossReduction

from .base import PairLoss
from .intensity import IntensityRange, intensity_range, normalized
from .parzen import make_parzen

__all__ = ["ParzenLoss"]


class ParzenLoss(PairLoss):
    """Intensities are brought to [0, 1] between two quantiles of the voxels that count, and clamped; bins lie on [0, 1].

    Args:
        spatial_dims: 1, 2 or 3.
        num_bins: bins, two at least.
        kernel_type: Parzen window, ``"gaussian"`` (normalized over the bins) or ``"spline"`` (two bins wide).
        sigma_ratio: standard deviation of the Gaussian, in distances between bins.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        rescale: whether to do so; without it intensities are taken as they are and clamped to [0, 1].
        quantile: share of voxels below the low and above the high end, in [0, 0.5); 0 is minimum and maximum.
        freeze_range: keep the ends found in the first call until :meth:`reset_range`, as within a stage of a registration;
            they are constants then. Otherwise they are found anew in every call, and the gradient includes theirs.
    """

    num_bins: int
    quantile: float
    freeze_range: bool

    def __init__(
        self,
        spatial_dims: int,
        reduction: LossReduction | str,
        *,
        num_bins: int,
        kernel_type: str,
        sigma_ratio: float,
        **options: Any,
    ) -> None:
        shown = {"num_bins": num_bins, "kernel_type": kernel_type, "sigma_ratio": sigma_ratio}
        super().__init__(spatial_dims, reduction, **shown, **options)
        self.parzen = make_parzen(kernel_type, num_bins, sigma_ratio)
        self._frozen: tuple[IntensityRange, IntensityRange] | None = None

    def reset_range(self) -> None:
        """Forget frozen intensity ranges; the next call finds and keeps new ones."""
        self._frozen = None

    def _unit(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both images in [0, 1]."""
        if not self.rescale:
            return pred.clamp(0, 1), target.clamp(0, 1)
        ranges = self._frozen
        if ranges is None:
            valid = weight > 0
            ranges = intensity_range(pred, valid, self.quantile), intensity_range(target, valid, self.quantile)
            if self.freeze_range:
                ranges = self._frozen = (ranges[0].frozen(), ranges[1].frozen())
        shape = ranges[0].low.shape
        if shape != pred.shape[:2]:
            raise ValueError(
                f"the frozen intensity range is of {tuple(shape)} items and channels, pred has {tuple(pred.shape[:2])}; "
                "call reset_range() first."
            )
        return normalized(pred, ranges[0], 0, 1), normalized(target, ranges[1], 0, 1)
