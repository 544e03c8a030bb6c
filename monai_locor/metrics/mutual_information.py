# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Normalized mutual information, an alignment measure that the registration does not optimize by default."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..tensors import as_tensor
from .selection import spatial_mask

__all__ = ["normalized_mutual_information", "quantiles"]

WINDOW_QUANTILES = (0.005, 0.995)  # so that outliers do not compress all other voxels into one bin


def normalized_mutual_information(
    first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None, bins: int = 64
) -> float:
    """``(H(a) + H(b)) / H(a, b)`` from a joint histogram, Studholme 1999 (doi 10.1016/S0031-3203(98)00091-0).

    Each image is windowed to its 0.5 to 99.5 % quantiles inside the mask.

    Args:
        first: ``(*shape)`` or ``(1, *shape)``.
        second: the same shape.
        mask: ``(*shape)`` or ``(1, *shape)``; voxels above zero are included, by default all.
        bins: number of bins along each axis of the histogram.

    Returns:
        Between 1 (independent) and 2 (each determines the other); NaN if both are constant.

    Raises:
        ValueError: if the shapes do not match or fewer than two included voxels are finite in both images.
    """
    if first.shape != second.shape:
        raise ValueError(f"the images differ in shape: {tuple(first.shape)}, {tuple(second.shape)}")
    a, b = (as_tensor(i).detach().double() for i in (first, second))
    b = b.to(a.device)
    chosen = a.isfinite() & b.isfinite()
    if mask is not None:
        spatial = tuple(first.shape[1:] if mask.ndim < first.ndim else first.shape)
        chosen &= spatial_mask(mask, spatial).to(a.device)
    a, b = a[chosen], b[chosen]
    if len(a) < 2:
        raise ValueError("fewer than two voxels to measure mutual information in")
    joint = torch.bincount(_binned(a, bins) * bins + _binned(b, bins), minlength=bins**2).view(bins, bins)
    whole, *parts = torch.stack([_entropy(table) for table in (joint.flatten(), joint.sum(0), joint.sum(1))]).tolist()
    return sum(parts) / whole if whole > 0 else float("nan")


def _binned(values: torch.Tensor, bins: int) -> torch.Tensor:
    low, high = quantiles(values, WINDOW_QUANTILES)
    span = (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    return ((values - low).div_(span).clamp_(0, 1 - 1e-12) * bins).long()


def quantiles(values: torch.Tensor, shares: Sequence[float]) -> list[torch.Tensor]:
    """Quantiles of values ``(N,)`` by linear interpolation; ``torch.quantile`` is limited to 16 million values."""
    found = []
    for share in shares:
        rank = share * (len(values) - 1)
        low = int(rank)
        ends = [values.kthvalue(min(k, len(values))).values for k in (low + 1, low + 2)]
        found.append(torch.lerp(ends[0], ends[1], rank - low))
    return found


def _entropy(counts: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(counts.double() / counts.sum()).sum()
