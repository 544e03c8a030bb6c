# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Detection of background noise over the full intensity range, as in MP2RAGE images (UNI, T1 maps)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..tensors import plain

__all__ = ["has_noisy_background"]

CORNER_FRACTION = 10  # a corner is a tenth of each axis
MIN_CORNER_SIZE = 6  # voxels along each axis of a corner
MIN_NOISE_STD = 0.15  # of a corner, relative to the robust range of the image; uniform noise over the range has 0.29
MAX_NOISE_CORRELATION = 0.4  # of neighboring voxels
MIN_IMAGE_CORRELATION = 0.55  # of neighboring voxels


def has_noisy_background(image: torch.Tensor) -> bool:
    """Whether at least half of the corners contain noise over the range of the image and its center does not.

    If inversion images are combined regardless of signal, air is noise over the whole intensity range, which a registration
    cannot explain. Neighboring voxels are correlated in anatomy but not in noise.

    Args:
        image: intensities, ``(1, *spatial)``.
    """
    values = plain(image)[0].detach()
    low, high = np.quantile(values.flatten()[:: max(1, values.numel() // 2**16)].cpu().double().numpy(), [0.005, 0.995])
    if not high > low or min(values.shape) < 2 or sum(n >= 3 * MIN_CORNER_SIZE for n in values.shape) < 2:
        return False
    found = [_is_noise(_array(values[corner]), high - low) for corner in _corners(values.shape)]
    if 2 * sum(found) < len(found):
        return False
    long = [n >= 3 * MIN_CORNER_SIZE for n in values.shape]
    middle = tuple(
        slice(n // 2 - _size(n), n // 2 + _size(n)) if is_long else slice(None)
        for n, is_long in zip(values.shape, long, strict=True)
    )
    return _neighbors(_array(values[middle])) > MIN_IMAGE_CORRELATION


def _array(block: torch.Tensor) -> np.ndarray:
    array: np.ndarray = block.cpu().double().numpy()
    return array - array.mean()


def _size(n: int) -> int:
    return max(MIN_CORNER_SIZE, n // CORNER_FRACTION)


def _corners(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Return blocks at the corners; they extend over the full length of short axes."""
    ends = [(slice(0, _size(n)), slice(n - _size(n), n)) if n >= 3 * MIN_CORNER_SIZE else (slice(None),) for n in shape]
    return itertools.product(*ends)


def _is_noise(block: np.ndarray, span: float) -> bool:
    return bool(block.std() > MIN_NOISE_STD * span) and _neighbors(block) < MAX_NOISE_CORRELATION


def _neighbors(block: np.ndarray) -> float:
    """Return the correlation of neighboring voxels of a centered block, averaged over the axes."""
    energy = float((block**2).mean())
    if energy == 0:
        return 1.0
    pairs = [np.moveaxis(block, axis, 0) for axis, n in enumerate(block.shape) if n > 2]
    return float(np.mean([(b[1:] * b[:-1]).mean() / energy for b in pairs]))
