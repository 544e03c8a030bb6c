# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Alignment of two images, measured by comparing the result with shifted copies of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, product
from typing import Any

import numpy as np
import torch

from ..geometry.partition import voxels_per_slab
from ..metrics.mutual_information import quantiles
from .samples import MIN_VALID_SAMPLES, NUM_SAMPLES, Reading, SampledPair, mutual_information

__all__ = [
    "GLOBAL_SHIFT",
    "LOCAL_SHIFTS",
    "NMI_BIAS",
    "NO_LOCAL_FIT",
    "information_ratio",
    "local_fit",
    "near_length",
    "near_shifts",
    "shifted_information_ratio",
]

BLOCK_BINS = 8  # of the joint histogram of a block
BLOCK_SIDE = {2: 32.0, 3: 12.0}  # by number of axes, in units of the samples: many hundreds of samples per block
LOCAL_SHIFTS = (1.5, 3.0)  # units of the samples
NEAR_SHIFT = {2: 0.02, 3: 0.015}  # by number of axes: of the field of view, the geometric mean of its sides
GLOBAL_SHIFT = 0.06  # of the longest side of the fixed field of view
MIN_BLOCK_OVERLAP = 0.5  # valid share of the samples of a block
MIN_BLOCK_ENTROPY = 0.3  # nats, of the fixed image: blocks with less contrast are left out
MIN_BLOCKS = 8
NMI_BIAS = 3e-3  # by which NMI may exceed 1 for unrelated images
INTENSITY_QUANTILES = (0.005, 0.995)
NO_LOCAL_FIT = {"local_support": math.nan, "support_blocks": 0, "near_contrast": math.nan, "far_contrast": math.nan}


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
    return information_ratio(pair, after, list(zip(*pair.read_shifted(shifts), strict=True)))


def information_ratio(pair: SampledPair, after: Reading, others: Sequence[Reading]) -> float:
    """NMI - 1 of a reading relative to the best of others; NaN if too few samples are valid in both."""
    found = []
    for reading in others:
        here, there = mutual_information(pair, [after, reading], max_samples=NUM_SAMPLES // 3)
        found.append((here - 1) / max(there - 1 + NMI_BIAS, NMI_BIAS))
    return min((f for f in found if math.isfinite(f)), default=math.nan)


def local_fit(pair: SampledPair, after: Reading) -> dict[str, Any]:
    """How much better the blocks of the fixed image match at the result than after small shifts.

    Each block is shifted by :func:`near_shifts` and :data:`LOCAL_SHIFTS` in eight (2-D) or twelve (3-D) directions, and its
    mutual information with the moving image is compared with that in place.

    Args:
        pair: sampled images.
        after: ``pair.read()``.

    Returns:
        ``local_support``, share of the blocks that match better in place than after any of :data:`LOCAL_SHIFTS`. For
        unrelated images, hardly a quarter of the blocks do, even after optimization. ``near_contrast`` and ``far_contrast``:
        mutual information of all blocks in place relative to the best near shift, or the best by the last of
        :data:`LOCAL_SHIFTS`. If the near contrast is about 1, the images do not determine the alignment to this length.
        ``support_blocks``: number of usable blocks; if it is less than :data:`MIN_BLOCKS`, the others are NaN.
    """
    ways = _directions(pair.grid.dims)
    shifts = np.concatenate([near_shifts(pair, ways), *(length * pair.unit * ways for length in LOCAL_SHIFTS)])
    others, valid = pair.read_shifted(shifts)
    index = (after[1] & valid.all(0)).flatten().nonzero()[:, 0]
    first, best = pair.fixed.flatten()[index], after[0].flatten()[index]
    if len(first) < MIN_VALID_SAMPLES:
        return dict(NO_LOCAL_FIT)
    blocks, count, block_size = _blocks(pair)
    rows, limits = blocks.flatten()[index] * BLOCK_BINS + _bins(first, _intensity_range(first)), _intensity_range(best)
    # a few images at a time: bins take twice the memory of intensities
    parts = others.flatten(1).split(max(1, voxels_per_slab(rows.device) // len(rows)))
    columns = chain([best[None]], (part[:, index] for part in parts))
    tables = torch.cat([_joint(rows, _bins(values, limits), count) for values in columns])
    values = _entropy(tables.sum(2)) + _entropy(tables.sum(3)) - _entropy(tables.flatten(2))
    contrast, size = _entropy(tables[0].sum(2)), tables[0].sum((1, 2))
    used = (size >= MIN_BLOCK_OVERLAP * block_size) & (contrast > MIN_BLOCK_ENTROPY)
    supported = (values[0] > values[1 + len(ways) :].amax(0)) & used
    sums = torch.where(used, values, 0.0).sum(1)
    near, far = sums[1 : 1 + len(ways)].amax(), sums[-len(ways) :].amax()
    share, number, here, near, far = torch.stack((supported.sum(), used.sum(), sums[0], near, far)).tolist()  # one copy
    if number < MIN_BLOCKS:
        return {**NO_LOCAL_FIT, "support_blocks": int(number)}
    contrasts = {"near_contrast": here / max(near, 1e-12), "far_contrast": here / max(far, 1e-12)}
    return {"local_support": share / number, "support_blocks": int(number), **contrasts}


def near_shifts(pair: SampledPair, ways: np.ndarray) -> np.ndarray:
    """Shifts by :data:`NEAR_SHIFT`, or by a voxel of the coarser image where that is more, ``(N, D)`` mm.

    Args:
        pair: sampled images.
        ways: directions, unit vectors, ``(N, D)``, RAS.
    """
    fixed = pair.grid.affine[:-1, :-1] * (np.array(pair.grid.shape) / np.array(pair.fixed_shape))  # of all voxels
    voxels = [1 / np.linalg.norm(np.linalg.solve(a, ways.T), axis=0) for a in (fixed, pair.moving_grid.affine[:-1, :-1])]
    return np.maximum(near_length(pair), np.maximum(*voxels))[:, None] * ways


def near_length(pair: SampledPair) -> float:
    """:data:`NEAR_SHIFT` in mm."""
    extent = np.array(pair.grid.extent, dtype=float)
    return float(NEAR_SHIFT[pair.grid.dims] * np.prod(extent) ** (1 / pair.grid.dims))


def _joint(rows: torch.Tensor, columns: torch.Tensor, blocks: int) -> torch.Tensor:
    """Joint histograms of all blocks, ``(K, blocks, BLOCK_BINS, BLOCK_BINS)``.

    Args:
        rows: block and bin of the fixed image, ``(N,)``: ``block * BLOCK_BINS + bin``.
        columns: bins of K images, ``(K, N)``.
        blocks: number of blocks.
    """
    size = blocks * BLOCK_BINS**2
    offsets = torch.arange(len(columns), device=rows.device)[:, None] * size
    codes = columns.add(rows, alpha=BLOCK_BINS).add_(offsets)
    counts = torch.bincount(codes.flatten(), minlength=len(columns) * size)
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
