# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Detection of label maps, and of vectors and tensors, from the values of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["LABEL_INTENTS", "labels_in", "not_whole", "vectors_in"]

LABEL_INTENTS = ("label", "neuroname")
MAX_LABELS = 4096  # atlases have up to a few thousand
FEW_VALUES = 8  # smooth anatomical images have more
TESTED_CHANNELS = 4
MIN_EQUAL_NEIGHBORS = 0.6  # share of neighbors with the same value
MAX_UNIT_STEPS = 0.5  # share of steps between neighbors to the next value; nearly all in quantized smooth images
MAX_TABLE_RANGE = 2**20  # range of values that are counted with bincount
UNIT_LENGTH_TOLERANCE = 0.02  # deviation of a direction's length from one


def labels_in(voxels: np.ndarray, intent: str = "") -> list[int] | None:
    """The labels of a label map or a mask, background included; None for other images.

    An image with two values is always a mask. Labels are integers that form patches: along every axis, most voxels have the
    same value as their neighbor, not counting the most frequent value (air, background). This excludes 8-bit CT and noisy
    images with few values. With more than a few values, most steps between neighbors must skip values, unlike in a smooth
    integer image.

    Args:
        voxels: ``(C, *spatial)``, any type; all must be integers, and only the first few channels are tested for patches.
        intent: NIfTI intent, if any: with a label intent all integer images are label maps, with another intent none are.
    """
    if intent and intent not in LABEL_INTENTS:
        return None
    if voxels.size == 0 or voxels.dtype.kind not in "buif" or any(len(not_whole(channel)) for channel in voxels):
        return None
    voxels = voxels[:TESTED_CHANNELS]
    whole = voxels if voxels.dtype.kind in "bui" else np.rint(voxels)
    ranked = _ranked(whole)
    if ranked is None:
        return None
    values, rank, background = ranked
    if intent:
        return [int(v) for v in values]
    if len(values) == 2:
        return [int(v) for v in values]  # a mask, however scattered
    steps = [_steps(rank, axis, background) for axis in range(1, rank.ndim) if rank.shape[axis] > 1]
    if any(len(step) and (step == 0).mean() < MIN_EQUAL_NEIGHBORS for step in steps):
        return None
    changes = np.concatenate([step[step > 0] for step in steps] or [np.zeros(0)])
    if len(values) > FEW_VALUES and len(changes) and (changes == 1).mean() > MAX_UNIT_STEPS:
        return None
    return [int(v) for v in values]


def not_whole(values: np.ndarray) -> np.ndarray:
    """The values that are not whole numbers within rounding, including NaN, ``(N,)``.

    Resampling, and slope and intercept in the header, leave errors of 5e-5 near zero and up to 1e-3 for larger numbers;
    float32 has a relative error of 1e-7.
    """
    if values.dtype.kind in "bui":
        return values.ravel()[:0]
    size = np.abs(values)
    rounding = np.maximum(np.clip(1e-5 * size, 5e-5, 1e-3), np.minimum(1.2e-7 * size, 0.1))
    with np.errstate(invalid="ignore"):
        wrong: np.ndarray = values[~(np.abs(values - np.rint(values)) <= rounding)]
    return wrong


def _ranked(whole: np.ndarray) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Sorted values, rank of each voxel's value, rank of the most frequent value; None for one value or too many."""
    sample = np.unique(whole.ravel()[:: max(1, whole.size // 2**16)])
    low, high = int(whole.min()), int(whole.max())
    if len(sample) > MAX_LABELS or low == high:
        return None
    if high - low > MAX_TABLE_RANGE:  # labels with large numbers
        values, rank, counts = np.unique(whole, return_inverse=True, return_counts=True)
        rank = rank.reshape(whole.shape)
    else:
        shifted = whole.astype(np.int64) - low
        every = np.bincount(shifted.ravel())
        values, counts = np.flatnonzero(every) + low, every[every > 0]
        rank = (np.cumsum(every > 0) - 1)[shifted]
    return (values, rank.astype(np.int32), int(counts.argmax())) if len(values) <= MAX_LABELS else None


def _steps(rank: np.ndarray, axis: int, background: int) -> np.ndarray:
    """Absolute rank difference of each foreground voxel to its predecessor, ``(N,)``."""
    later, before = (rank.take(range(start, rank.shape[axis] + start - 1), axis) for start in (1, 0))
    out: np.ndarray = np.abs(later - before)[later != background]
    return out


TENSOR_DIAGONALS = {"NIfTI": (0, 2, 5), "FSL": (0, 3, 5), "MRtrix": (0, 1, 2)}  # indices of xx, yy and zz


def vectors_in(voxels: np.ndarray) -> str:
    """Describe vectors or tensors that a transform would have to reorient; empty for other images.

    Diffusion tensors have three nonnegative components (xx, yy and zz) and three of both signs; directions have unit length
    or are zero.

    Args:
        voxels: ``(C, *spatial)``.
    """
    if voxels.dtype.kind not in "if" or len(voxels) not in (3, 6):
        return ""
    flat = voxels.reshape(len(voxels), -1)[:, :: max(1, voxels[0].size // 2**20)].astype(np.float64)
    used = flat[:, np.isfinite(flat).all(0) & (flat != 0).any(0)]
    if used.shape[1] < 2:
        return ""
    if len(voxels) == 3:
        lengths = np.linalg.norm(used, axis=0)
        signs = (used < 0).any() and (used > 0).any()
        return "unit vectors" if signs and (np.abs(lengths - 1) < UNIT_LENGTH_TOLERANCE).mean() > 0.99 else ""
    order = next((name for name, diagonal in TENSOR_DIAGONALS.items() if _is_diagonal(used, diagonal)), "")
    return f"diffusion tensors in the order of {order}" if order else ""


def _is_diagonal(used: np.ndarray, diagonal: Sequence[int]) -> bool:
    """Whether these components are nonnegative and the others have both signs."""
    others = [i for i in range(6) if i not in diagonal]
    never_negative = (used[list(diagonal)] >= 0).mean(1) > 0.95
    both = [0.05 < (used[i] > 0).mean() < 0.95 and 0.05 < (used[i] < 0).mean() < 0.95 for i in others]
    return bool(never_negative.all() and all(both))
