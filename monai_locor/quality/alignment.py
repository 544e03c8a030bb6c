# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Alignment of two images, measured by comparing the result with shifted copies of it."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from .samples import MIN_VALID_SAMPLES, NUM_SAMPLES, Reading, SampledPair, mutual_information

__all__ = ["GLOBAL_SHIFT", "LOCAL_SHIFTS", "NMI_BIAS", "local_support", "shifted_information_ratio"]

BLOCK_BINS = 8  # of the joint histogram of a block
BLOCK_SIDE = {2: 32.0, 3: 12.0}  # by number of axes, in units of the samples: many hundreds of samples per block
LOCAL_SHIFTS = (1.5, 3.0)  # units of the samples
GLOBAL_SHIFT = 0.06  # of the longest side of the fixed field of view
MIN_BLOCK_OVERLAP = 0.5  # valid share of the samples of a block
MIN_BLOCK_ENTROPY = 0.3  # nats, of the fixed image: blocks with less contrast are left out
MIN_BLOCKS = 8
NMI_BIAS = 3e-3  # by which NMI may exceed 1 for unrelated images
INTENSITY_QUANTILES = (0.005, 0.995)


def shifted_information_ratio(pair: SampledPair, after: Reading) -> float:
    """NMI - 1 of the result relative to the best of the results shifted by :data:`GLOBAL_SHIFT` along each world axis.

    Args:
        pair: sampled images.
        after: ``pair.read()``.

    Returns:
        about 1 for unrelated images; NaN if too few samples are valid.
    """
    found = []
    for axis, sign in product(np.eye(pair.grid.dims), (-1, 1)):
        offset = sign * GLOBAL_SHIFT * float(pair.grid.extent.max()) * axis
        here, there = mutual_information(pair, [after, pair.read(offset)], max_samples=NUM_SAMPLES // 3)
        found.append((here - 1) / max(there - 1 + NMI_BIAS, NMI_BIAS))
    return min((f for f in found if math.isfinite(f)), default=math.nan)


def local_support(pair: SampledPair, after: Reading) -> tuple[float, int]:
    """Share of the blocks of the fixed image whose mutual information is higher at the result than after any small shift.

    Each block is shifted by :data:`LOCAL_SHIFTS` in eight (2-D) or twelve (3-D) directions. For unrelated images, hardly a
    quarter of the blocks match best in place, even after optimization.

    Args:
        pair: sampled images.
        after: ``pair.read()``.

    Returns:
        the share, NaN with fewer than :data:`MIN_BLOCKS` usable blocks; the number of blocks.
    """
    offsets = [length * pair.unit * way for length in LOCAL_SHIFTS for way in _directions(pair.grid.dims)]
    readings = [after, *(pair.read(offset) for offset in offsets)]
    valid = np.logical_and.reduce([v for _, v in readings])
    if valid.sum() < MIN_VALID_SAMPLES:
        return math.nan, 0
    blocks, block_size = _blocks(pair)
    first = pair.fixed[valid]
    rows = blocks[valid] * BLOCK_BINS + _bins(first, _intensity_range(first))
    shape = (blocks.max() + 1, BLOCK_BINS, BLOCK_BINS)
    values, limits = [], _intensity_range(after[0][valid])
    for other, _ in readings:
        joint = rows * BLOCK_BINS + _bins(other[valid], limits)
        table = np.bincount(joint, minlength=math.prod(shape)).reshape(shape)
        values.append(_entropy(table.sum(1)) - _entropy(table.reshape(len(table), -1)))
    contrast = _entropy(table.sum(2))
    used = (table.sum((1, 2)) >= MIN_BLOCK_OVERLAP * block_size) & (contrast > MIN_BLOCK_ENTROPY)
    if used.sum() < MIN_BLOCKS:
        return math.nan, int(used.sum())
    return float((values[0] > np.max(values[1:], axis=0))[used].mean()), int(used.sum())


def _directions(dims: int) -> np.ndarray:
    """Unit vectors, evenly distributed: every 45 degrees, or the vertices of an icosahedron."""
    if dims == 2:
        angles = np.arange(8) * np.pi / 4
        return np.stack([np.cos(angles), np.sin(angles)], 1)
    golden = (1 + math.sqrt(5)) / 2
    corners = [np.roll([0.0, a, b * golden], k) for a, b, k in product((-1, 1), (-1, 1), range(3))]
    return np.array(corners) / math.hypot(1, golden)


def _blocks(pair: SampledPair) -> tuple[np.ndarray, int]:
    """Block index of each sample, ``(*grid)``, and the number of samples in a whole block."""
    grid, side = pair.grid, BLOCK_SIDE[pair.grid.dims] * pair.unit
    sides = [max(1, min(n, round(side / float(s)))) for n, s in zip(grid.shape, grid.spacing, strict=True)]
    axes = [np.arange(n) // k for n, k in zip(grid.shape, sides, strict=True)]
    shape = tuple(int(a[-1]) + 1 for a in axes)
    return np.ravel_multi_index(tuple(np.meshgrid(*axes, indexing="ij")), shape), math.prod(sides)


def _intensity_range(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, INTENSITY_QUANTILES)
    return float(low), float(high)


def _bins(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Histogram bins, 0 to ``BLOCK_BINS - 1``."""
    low, high = limits
    return np.clip((values - low) * (BLOCK_BINS / max(high - low, 1e-30)), 0, BLOCK_BINS - 1).astype(np.int64)


def _entropy(tables: np.ndarray) -> np.ndarray:
    """Entropy in nats, ``(B,)``, of counts ``(B, N)``."""
    p = tables / np.maximum(tables.sum(1, keepdims=True), 1)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(1)
