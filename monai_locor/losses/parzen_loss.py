# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Base of the measures made of Parzen windows."""

from __future__ import annotations

from typing import Any

import torch
from monai.utils import LossReduction

from .base import PairLoss
from .intensity import IntensityRange, intensity_range, normalized
from .options import BinOptions, RangeOptions, WindowOptions
from .parzen import make_parzen

__all__ = ["ParzenLoss"]


class ParzenLoss(PairLoss):
    """Measure on bins over [0, 1], to which intensities are brought between two quantiles of the voxels with weight.

    With ``freeze_range`` the ends found in the first call are kept as constants until :meth:`reset_range`, as within a stage
    of a registration. Otherwise they are found in every call, and the gradient includes theirs.

    Args:
        spatial_dims: 1, 2 or 3.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        bins, intensities, groups, options: see :mod:`.options`.
    """

    num_bins: int
    quantile: float
    freeze_range: bool

    def __init__(
        self,
        spatial_dims: int,
        reduction: LossReduction | str,
        bins: BinOptions,
        intensities: RangeOptions,
        *groups: WindowOptions,
        **options: Any,
    ) -> None:
        super().__init__(spatial_dims, reduction, bins, intensities, *groups, **options)
        self.parzen = make_parzen(bins.kernel_type, bins.num_bins, bins.sigma_ratio)
        self._frozen: tuple[IntensityRange, IntensityRange] | None = None

    def reset_range(self) -> None:
        """Discard frozen intensity ranges; the next call finds and keeps new ones."""
        self._frozen = None

    def _unit(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both images, brought to [0, 1]."""
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
                f"pred has {tuple(pred.shape[:2])} items and channels, the frozen intensity range {tuple(shape)}; "
                "call reset_range() first."
            )
        return normalized(pred, ranges[0], 0, 1), normalized(target, ranges[1], 0, 1)
