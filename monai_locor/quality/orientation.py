# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whether the moving image would fit as well if it were turned by 180 degrees or mirrored."""

from __future__ import annotations

import dataclasses
import math
from itertools import combinations

import numpy as np
import torch

from ..tensors import on_device
from .alignment import information_ratio
from .samples import Reading, SampledPair

__all__ = ["orientation_ratios"]


def orientation_ratios(pair: SampledPair, after: Reading) -> dict[str, float]:
    """NMI - 1 of the result relative to that of turned and mirrored copies of it.

    The moving image is turned by 180 degrees about each world axis, or mirrored along it, about the center of its contrast.
    The copies are not registered, so a ratio near 1 means that they might fit as well as the result or better.

    Args:
        pair: sampled images.
        after: ``pair.read()``.

    Returns:
        ``nmi_turn_ratio`` and ``nmi_mirror_ratio``, relative to the best copy; NaN if too few samples are valid.
    """
    center = _center(pair, after)
    if center is None:
        return {"nmi_turn_ratio": math.nan, "nmi_mirror_ratio": math.nan}
    dims = pair.grid.dims
    mirrors = [_flip((axis,), dims) for axis in range(dims)]
    turns = [_flip(axes, dims) for axes in combinations(range(dims), 2)]
    copies = _copies(pair, np.stack(mirrors + turns), center)
    return {
        "nmi_turn_ratio": information_ratio(pair, after, copies[dims:]),
        "nmi_mirror_ratio": information_ratio(pair, after, copies[:dims]),
    }


def _center(pair: SampledPair, after: Reading) -> np.ndarray | None:
    """Mean of the mapped points, weighted by the contrast of the moving image to its median, ``(D,)``, moving voxels.

    None without valid samples or contrast.
    """
    values, valid = after
    median = torch.where(valid, values, math.nan).nanmedian()
    weights = torch.where(valid, (values - median).abs().double(), 0.0)
    *sums, total = torch.cat(((pair.points.double() * weights).flatten(1).sum(1), weights.sum()[None])).tolist()  # one copy
    return np.array(sums) / total if total > 0 else None


def _flip(axes: tuple[int, ...], dims: int) -> np.ndarray:
    matrix = np.eye(dims)
    matrix[list(axes), list(axes)] = -1
    return matrix


def _copies(pair: SampledPair, flips: np.ndarray, center: np.ndarray) -> list[Reading]:
    """Sample the moving image after linear maps ``(K, D, D)`` in the world of its points about a center, moving voxels."""
    to_world = pair.moving_grid.affine[:-1, :-1]
    linear = np.linalg.inv(to_world) @ flips @ to_world
    offsets = center - linear @ center
    maps = on_device(np.concatenate((linear, offsets[..., None]), -1), pair.points)
    found = []
    for matrix in maps:
        points = torch.einsum("ij,j...->i...", matrix[:, :-1], pair.points)
        points += matrix[:, -1].reshape(-1, *[1] * pair.grid.dims)
        found.append(dataclasses.replace(pair, points=points).read())
    return found
