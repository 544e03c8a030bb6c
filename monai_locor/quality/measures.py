# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a verdict on a registration rests on: quick to measure, and not what was optimized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch

from ..geometry import Grid, inside, mapped_points
from ..metrics import inverse_consistency
from ..tensors import plain
from .samples import FEWEST, SAMPLES, Reading, Samples, every_nth, mutual_information

__all__ = [
    "affine_shape",
    "beside",
    "blind_stages",
    "convergence",
    "counted_voxels",
    "inverse_error",
    "local_support",
    "shared_view",
]

BINS = 8  # of the joint histogram of a block
BLOCK = {2: 32.0, 3: 12.0}  # side of a block by the number of axes, units of the samples: many hundreds of them
LOCAL_SHIFTS = (1.5, 3.0)  # units
GLOBAL_SHIFT = 0.06  # of the longest side of the fixed field of view
FULL = 0.5  # share of a block's samples that must lie on both images
TEXTURE = 0.3  # nats of entropy that a block of the fixed image must have to say anything
FEWEST_BLOCKS = 8
CHANCE = 3e-3  # by which NMI may exceed 1 without any relation
QUANTILES = (0.005, 0.995)
NOTHING = {"normalized_mutual_information": -1.0}  # what a measure gives where nothing counts; the others give 0
SAME = 0.999  # correlation from which images are the same up to their contrast


def counted_voxels(samples: Samples, after: Reading, voxels: Sequence[int]) -> int:
    """How many voxels the registration rests on at the end.

    Args:
        after: ``samples.read()``.
        voxels: of the fixed and of the moving image, those that are finite and inside the mask.
    """
    fewest = min(voxels)
    each = math.prod(samples.fixed_shape) / samples.fixed.size  # voxels that a sample stands for
    return min(fewest, round(float(after[1].sum()) * each)) if fewest > FEWEST * each else fewest


def blind_stages(history: Sequence[Mapping[str, Any]], samples: Samples, after: Reading, similarity: str = "") -> float:
    """Share of the stages with steps whose loss at the end was exactly that of nothing, 0 for most measures.

    A loss is that where there is nothing to take a mean over: the images or their masks do not meet, or have no contrast
    where they meet. Between two images that are the same a loss may be zero as well; then the share is 0.

    Args:
        after: ``samples.read()``.
        similarity: name of the measure.

    Returns:
        NaN without steps.
    """
    ends = [stage["loss"][-1] for stage in history if stage["loss"]]
    if not ends:
        return math.nan
    first, second = samples.fixed[after[1]], after[0][after[1]]
    nothing = NOTHING.get(similarity, 0.0)
    comparable = nothing in ends and len(first) >= FEWEST and first.std() > 0 and second.std() > 0
    if comparable and abs(float(np.corrcoef(first, second)[0, 1])) > SAME:
        return 0.0
    return ends.count(nothing) / len(ends)


def beside(samples: Samples, after: Reading) -> float:
    """How much better the result is than what lies beside it, by NMI - 1: relative to the best of the results displaced to
    either side along each world axis by :data:`GLOBAL_SHIFT`.

    About 1 for images that have nothing to do with each other; NaN when there is nothing to compare.
    """
    found = []
    for axis, sign in product(np.eye(samples.grid.dims), (-1, 1)):
        offset = sign * GLOBAL_SHIFT * float(samples.grid.extent.max()) * axis
        here, there = mutual_information(samples, [after, samples.read(offset)], most=SAMPLES // 3)
        found.append((here - 1) / max(there - 1 + CHANCE, CHANCE))
    return min((f for f in found if math.isfinite(f)), default=math.nan)


def local_support(samples: Samples, after: Reading) -> tuple[float, int]:
    """Share of the blocks of the fixed image that agree better with the moving image where they are than anywhere near.

    Each block is compared by its mutual information at the result and displaced by :data:`LOCAL_SHIFTS` in eight (2-D) or
    twelve (3-D) directions. Of unrelated images hardly a quarter is best in its place, even after the optimization.

    Args:
        after: ``samples.read()``.

    Returns:
        the share, NaN where fewer than :data:`FEWEST_BLOCKS` blocks say anything; the number of blocks.
    """
    offsets = [length * samples.unit * way for length in LOCAL_SHIFTS for way in _directions(samples.grid.dims)]
    readings = [after, *(samples.read(offset) for offset in offsets)]
    counts = np.logical_and.reduce([c for _, c in readings])
    if counts.sum() < FEWEST:
        return math.nan, 0
    blocks, full = _blocks(samples)
    first = samples.fixed[counts]
    number, size = blocks[counts] * BINS + _levels(first, _range(first)), (blocks.max() + 1, BINS, BINS)
    values, limits = [], _range(after[0][counts])
    for other, _ in readings:
        joint = number * BINS + _levels(other[counts], limits)
        table = np.bincount(joint, minlength=math.prod(size)).reshape(size)
        values.append(_entropy(table.sum(1)) - _entropy(table.reshape(len(table), -1)))
    texture = _entropy(table.sum(2))
    used = (table.sum((1, 2)) >= FULL * full) & (texture > TEXTURE)
    if used.sum() < FEWEST_BLOCKS:
        return math.nan, int(used.sum())
    return float((values[0] > np.max(values[1:], axis=0))[used].mean()), int(used.sum())


def _directions(dims: int) -> np.ndarray:
    """Unit vectors, evenly spread: every 45 degrees, or the corners of an icosahedron."""
    if dims == 2:
        angles = np.arange(8) * np.pi / 4
        return np.stack([np.cos(angles), np.sin(angles)], 1)
    golden = (1 + math.sqrt(5)) / 2
    corners = [np.roll([0.0, a, b * golden], k) for a, b, k in product((-1, 1), (-1, 1), range(3))]
    return np.array(corners) / math.hypot(1, golden)


def _blocks(samples: Samples) -> tuple[np.ndarray, int]:
    """Number of the block of each sample, ``(*grid)``, and how many samples make a block."""
    grid, side = samples.grid, BLOCK[samples.grid.dims] * samples.unit
    sides = [max(1, min(n, round(side / float(s)))) for n, s in zip(grid.shape, grid.spacing, strict=True)]
    axes = [np.arange(n) // k for n, k in zip(grid.shape, sides, strict=True)]
    shape = tuple(int(a[-1]) + 1 for a in axes)
    return np.ravel_multi_index(tuple(np.meshgrid(*axes, indexing="ij")), shape), math.prod(sides)


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, QUANTILES)
    return float(low), float(high)


def _levels(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Gray levels over a range, 0 to ``BINS - 1``."""
    low, high = limits
    return np.clip((values - low) * (BINS / max(high - low, 1e-30)), 0, BINS - 1).astype(np.int64)


def _entropy(tables: np.ndarray) -> np.ndarray:
    """Nats, ``(B,)`` of counts ``(B, N)``."""
    p = tables / np.maximum(tables.sum(1, keepdims=True), 1)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(1)


def shared_view(forward_mm: torch.Tensor, fixed: Grid, inverse_mm: torch.Tensor, moving: Grid) -> float:
    """Share of the smaller field of view that the transform takes into the other one, by voxels of both images."""
    shares = []
    for displacement, grid, other in ((forward_mm, fixed, moving), (inverse_mm, moving, fixed)):
        cut, coarse = every_nth(grid, 2**14)
        points = mapped_points(coarse, other, plain(displacement)[cut].detach().cpu())
        shares.append(float(inside(points, other.shape, margin=-0.5).double().mean()))
    return max(shares)


def inverse_error(forward_mm: torch.Tensor, fixed: Grid, inverse_mm: torch.Tensor, moving: Grid) -> float:
    """95th percentile of :func:`monai_locor.metrics.inverse_consistency` over some of the voxels, mm; NaN if none counts."""
    cut, grid = every_nth(fixed, 2**15)
    part = plain(forward_mm)[cut].detach().cpu()
    errors = inverse_consistency(part, grid, plain(inverse_mm).detach().cpu(), moving)
    return float(errors.quantile(0.95)) if len(errors) else math.nan


def affine_shape(affine: np.ndarray, initial: np.ndarray) -> dict[str, float]:
    """What the linear part of a matrix does beyond that of another: ``determinant``; ``stretch``, the largest factor by
    which a length grows or shrinks; ``shear_degrees``, the most that a right angle changes.

    >>> affine_shape(np.diag([2.0, 1, 1, 1]), np.eye(4))["stretch"]
    2.0
    """
    linear = affine[:-1, :-1] @ np.linalg.inv(initial[:-1, :-1])
    scales = np.linalg.svd(linear, compute_uv=False)
    squares = scales[0] ** 2, scales[-1] ** 2
    return {
        "determinant": float(np.linalg.det(linear)),
        "stretch": float(max(scales[0], 1 / max(scales[-1], 1e-12))),
        "shear_degrees": math.degrees(math.asin((squares[0] - squares[1]) / max(squares[0] + squares[1], 1e-30))),
    }


def convergence(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How the optimization ended.

    Returns:
        ``rest``, the part of all that the losses moved by that falls into the last quarter of the last stage, negative where
        it rose, NaN without steps; ``dropped``, the share of steps left out because their loss was not finite.
    """
    losses = [[v for v in stage["loss"] if v is not None] for stage in history]
    steps = sum(len(stage["loss"]) for stage in history)
    falls: list[list[float]] = []
    for values in losses:
        quarter = max(1, len(values) // 4)
        parts = [np.mean(values[max(0, end - quarter) : end]) for end in range(len(values), 0, -quarter)][::-1]
        falls.append([float(a - b) for a, b in pairwise(parts)])
    total = sum(abs(f) for fall in falls for f in fall)
    rest = falls[-1][-1] / total if falls and falls[-1] and total > 0 else math.nan
    return {"rest": float(rest), "dropped": 1 - sum(map(len, losses)) / steps if steps else 0.0}
