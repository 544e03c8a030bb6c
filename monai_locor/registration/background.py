# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Is the background of an image noise as strong as its contents, as in MP2RAGE images (UNI, T1 maps)?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..tensors import plain

__all__ = ["has_noisy_background"]

SHARE = 10  # a corner is a tenth of each axis
LEAST = 6  # voxels along each axis of a corner
STRONG = 0.15  # standard deviation of a corner, in robust ranges of the image; noise between both ends of the range has 0.29
WHITE = 0.4  # correlation of neighbors: less is noise
STRUCTURE = 0.55  # more is an image


def has_noisy_background(image: torch.Tensor) -> bool:
    """Whether at least half of the corners hold noise over the range of the image, and its middle does not.

    Where the phase of an inversion is combined without regard to the signal, air is noise between both ends of the range. A
    registration would have to explain it. Noise has no relation to its neighbors, anatomy has.

    Args:
        image: ``(1, *spatial)``.
    """
    values = plain(image)[0].detach()
    low, high = np.quantile(values.flatten()[:: max(1, values.numel() // 2**16)].cpu().double().numpy(), [0.005, 0.995])
    if not high > low or min(values.shape) < 2 or sum(n >= 3 * LEAST for n in values.shape) < 2:
        return False
    found = [_is_noise(_array(values[corner]), high - low) for corner in _corners(values.shape)]
    if 2 * sum(found) < len(found):
        return False
    middle = tuple(slice(n // 2 - _size(n), n // 2 + _size(n)) if n >= 3 * LEAST else slice(None) for n in values.shape)
    return _neighbors(_array(values[middle])) > STRUCTURE


def _array(block: torch.Tensor) -> np.ndarray:
    array: np.ndarray = block.cpu().double().numpy()
    return array - array.mean()


def _size(n: int) -> int:
    return max(LEAST, n // SHARE)


def _corners(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Blocks at the corners; a short axis belongs to them as a whole."""
    ends = [(slice(0, _size(n)), slice(n - _size(n), n)) if n >= 3 * LEAST else (slice(None),) for n in shape]
    return itertools.product(*ends)


def _is_noise(block: np.ndarray, span: float) -> bool:
    return bool(block.std() > STRONG * span) and _neighbors(block) < WHITE


def _neighbors(block: np.ndarray) -> float:
    """Correlation of neighboring voxels, mean over the axes; of a centered block."""
    energy = float((block**2).mean())
    if energy == 0:
        return 1.0
    pairs = [np.moveaxis(block, axis, 0) for axis, n in enumerate(block.shape) if n > 2]
    return float(np.mean([(b[1:] * b[:-1]).mean() / energy for b in pairs]))
