# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Alignment of two images, measured by comparing the result with shifted copies of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from ..metrics.mutual_information import quantiles
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
    length = GLOBAL_SHIFT * float(pair.grid.extent.max())
    shifts = length * np.concatenate((np.eye(pair.grid.dims), -np.eye(pair.grid.dims)))
    found = []
    for reading in zip(*pair.read_shifted(shifts), strict=True):
        here, there = mutual_information(pair, [after, reading], max_samples=NUM_SAMPLES // 3)
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
    ways = _directions(pair.grid.dims)
    others, valid = pair.read_shifted(np.concatenate([length * pair.unit * ways for length in LOCAL_SHIFTS]))
    valid = after[1] & valid.all(0)
    first, best = pair.fixed[valid], after[0][valid]
    if len(first) < MIN_VALID_SAMPLES:
        return math.nan, 0
    blocks, count, block_size = _blocks(pair)
    rows = blocks[valid] * BLOCK_BINS + _bins(first, _intensity_range(first))
    columns = _bins(torch.cat((best[None], others[:, valid])), _intensity_range(best))
    tables = _joint(rows, columns, count)
    values = _entropy(tables.sum(2)) - _entropy(tables.flatten(2))
    contrast, size = _entropy(tables[0].sum(2)), tables[0].sum((1, 2))
    used = (size >= MIN_BLOCK_OVERLAP * block_size) & (contrast > MIN_BLOCK_ENTROPY)
    supported = (values[0] > values[1:].amax(0)) & used
    numbers = torch.stack((supported.sum(), used.sum())).tolist()
    return (numbers[0] / numbers[1] if numbers[1] >= MIN_BLOCKS else math.nan), numbers[1]


def _joint(rows: torch.Tensor, columns: torch.Tensor, blocks: int) -> torch.Tensor:
    """Joint histograms of all blocks, ``(K, blocks, BLOCK_BINS, BLOCK_BINS)``.

    Args:
        rows: block and bin of the fixed image, ``(N,)``: ``block * BLOCK_BINS + bin``.
        columns: bins of K images, ``(K, N)``.
        blocks: number of blocks.
    """
    size = blocks * BLOCK_BINS**2
    offsets = torch.arange(len(columns), device=rows.device)[:, None] * size
    counts = torch.bincount((rows * BLOCK_BINS + columns + offsets).flatten(), minlength=len(columns) * size)
    return counts.view(len(columns), blocks, BLOCK_BINS, BLOCK_BINS)


def _directions(dims: int) -> np.ndarray:
    """Unit vectors, evenly distributed: every 45 degrees, or the vertices of an icosahedron."""
    if dims == 2:
        angles = np.arange(8) * np.pi / 4
        return np.stack([np.cos(angles), np.sin(angles)], 1)
    golden = (1 + math.sqrt(5)) / 2
    corners = [np.roll([0.0, a, b * golden], k) for a, b, k in product((-1, 1), (-1, 1), range(3))]
    return np.array(corners) / math.hypot(1, golden)


def _blocks(pair: SampledPair) -> tuple[torch.Tensor, int, int]:
    """Block index of each sample, ``(*grid)``, the number of blocks and that of the samples in a whole block."""
    grid, side = pair.grid, BLOCK_SIDE[pair.grid.dims] * pair.unit
    sides = [max(1, min(n, round(side / float(s)))) for n, s in zip(grid.shape, grid.spacing, strict=True)]
    index = torch.zeros((), dtype=torch.int64, device=pair.fixed.device)
    for n, k in zip(grid.shape, sides, strict=True):
        index = index[..., None] * ((n - 1) // k + 1) + torch.arange(n, device=index.device) // k
    return index, math.prod((n - 1) // k + 1 for n, k in zip(grid.shape, sides, strict=True)), math.prod(sides)


def _intensity_range(values: torch.Tensor) -> Sequence[torch.Tensor]:
    return quantiles(values.double(), INTENSITY_QUANTILES)


def _bins(values: torch.Tensor, limits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Histogram bins, 0 to ``BLOCK_BINS - 1``."""
    low, high = limits
    return ((values - low) * (BLOCK_BINS / (high - low).clamp_min(1e-30))).clamp_(0, BLOCK_BINS - 1).long()


def _entropy(tables: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, ``(*any)``, of counts ``(*any, N)``."""
    p = tables / tables.sum(-1, keepdim=True).clamp_min(1).double()
    return torch.special.entr(p).sum(-1)
