# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Volumes taken apart: linear maps that act on one axis after the other, and portions of the first axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["interpolation_matrix", "separable", "slabs", "toeplitz"]


def interpolation_matrix(positions: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation of an axis of ``size`` samples at ``positions`` (voxels, clamped), ``(positions, size)``."""
    where = np.clip(positions, 0, size - 1)
    return np.clip(1 - np.abs(where[:, None] - np.arange(size)), 0, None)


def toeplitz(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """Matrix ``(size, size)`` of the convolution of an axis with an odd kernel, zero beyond the ends."""
    reach = len(kernel) // 2
    out = kernel.new_zeros(size, size)
    for shift in range(-min(reach, size - 1), min(reach, size - 1) + 1):
        out.diagonal(shift).fill_(kernel[reach + shift])
    return out


def separable(matrices: Sequence[torch.Tensor], field: torch.Tensor) -> torch.Tensor:
    """Apply one matrix per spatial axis, last axis first, to ``(C, *spatial)``.

    Dense products: for axes of a few hundred voxels faster than the sparse sums that they stand for.
    """
    out = field @ matrices[-1].T
    for axis in reversed(range(len(matrices) - 1)):
        shape = out.shape
        flat = out.reshape(-1, shape[axis + 1], math.prod(shape[axis + 2 :]))
        out = torch.matmul(matrices[axis], flat).reshape(*shape[: axis + 1], len(matrices[axis]), *shape[axis + 2 :])
    return out


SLAB = 2**18  # voxels that are looked at together: what is made of them must not outweigh the images


def slabs(shape: Sequence[int], voxels: int = SLAB) -> list[slice]:
    """Portions of the first axis of about equal size, as few as have at most ``voxels`` voxels each; never less than a plane.

    >>> slabs((5, 4, 4), 40)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None)]
    """
    number = -(-shape[0] // max(1, voxels // max(1, math.prod(shape[1:]))))
    edges = [round(i * shape[0] / number) for i in range(number + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
