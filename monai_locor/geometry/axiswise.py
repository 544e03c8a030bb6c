# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Separable linear maps: one matrix per axis, applied axis by axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["interpolation_matrix", "separable", "toeplitz"]


def interpolation_matrix(positions: np.ndarray, size: int) -> np.ndarray:
    """Matrix ``(len(positions), size)`` of linear interpolation along an axis at ``positions`` (voxels, clamped)."""
    where = np.clip(positions, 0, size - 1)
    return np.clip(1 - np.abs(where[:, None] - np.arange(size)), 0, None)


def toeplitz(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """Matrix ``(size, size)`` of the convolution along an axis with a kernel of odd length, with zero padding."""
    reach = len(kernel) // 2
    out = kernel.new_zeros(size, size)
    for shift in range(-min(reach, size - 1), min(reach, size - 1) + 1):
        out.diagonal(shift).fill_(kernel[reach + shift])
    return out


def separable(matrices: Sequence[torch.Tensor], field: torch.Tensor) -> torch.Tensor:
    """Apply one matrix per spatial axis, last axis first, to ``(C, *spatial)``.

    Uses dense products, which are faster than sparse ones for axes of a few hundred voxels.
    """
    out = field @ matrices[-1].T
    for axis in reversed(range(len(matrices) - 1)):
        shape = out.shape
        flat = out.reshape(-1, shape[axis + 1], math.prod(shape[axis + 2 :]))
        out = torch.matmul(matrices[axis], flat).reshape(*shape[: axis + 1], len(matrices[axis]), *shape[axis + 2 :])
    return out
