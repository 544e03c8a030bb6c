# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Normalized mutual information, an alignment measure that the registration does not optimize by default."""

from __future__ import annotations

import numpy as np
import torch

from .selection import spatial_mask

__all__ = ["normalized_mutual_information"]

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
    a, b = (np.asarray(torch.as_tensor(i).detach().cpu().double()) for i in (first, second))
    chosen = np.isfinite(a) & np.isfinite(b)
    if mask is not None:
        spatial = tuple(first.shape[1:] if mask.ndim < first.ndim else first.shape)
        chosen &= spatial_mask(mask, spatial).cpu().numpy()
    if chosen.sum() < 2:
        raise ValueError("fewer than two voxels to measure mutual information in")
    pairs = _binned(a[chosen], bins) * bins + _binned(b[chosen], bins)
    joint = np.bincount(pairs, minlength=bins**2).reshape(bins, bins)
    whole = _entropy(joint.ravel())
    return float((_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / whole) if whole > 0 else float("nan")


def _binned(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = np.quantile(values, WINDOW_QUANTILES)
    return (np.clip((values - low) / max(high - low, np.finfo(float).tiny), 0, 1 - 1e-12) * bins).astype(np.int64)


def _entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
