# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Bending energy of a displacement."""

from __future__ import annotations

import torch

__all__ = ["bending_energy"]


def bending_energy(displacement: torch.Tensor) -> torch.Tensor:
    """The value of MONAI's ``BendingEnergyLoss``, for the inner loop of a registration.

    MONAI's loss copies a scalar from the host in every call, which blocks a GPU, and holds all terms at once.
    Source: Rueckert et al. 1999, doi 10.1109/42.796284, equation 3, without its constant.

    Args:
        displacement: ``(B, D, *spatial)``, more than two voxels along each axis.

    Returns:
        scalar, the sum of the squared second differences, averaged over inner voxels, components and items.

    Raises:
        ValueError: if an axis has fewer than three voxels.
    """
    if displacement.ndim < 3 or min(displacement.shape[2:]) < 3:
        raise ValueError(f"displacement must have three voxels or more along each axis, got {tuple(displacement.shape)}.")
    axes = range(2, displacement.ndim)
    terms = [_second_difference(displacement, i, i).square().mean() for i in axes]
    terms += [2 * _second_difference(displacement, i, j).square().mean() for i in axes for j in axes if i < j]
    return torch.stack(terms).sum()


def _second_difference(u: torch.Tensor, i: int, j: int) -> torch.Tensor:
    """At the inner voxels: ``[1, -2, 1]`` along one axis, or the four corners around a voxel along two."""
    if i == j:
        return _shifted(u, {i: 1}) - 2 * _shifted(u, {}) + _shifted(u, {i: -1})
    rise = _shifted(u, {i: 1, j: 1}) - _shifted(u, {i: 1, j: -1})
    return (rise - _shifted(u, {i: -1, j: 1}) + _shifted(u, {i: -1, j: -1})) / 4


def _shifted(u: torch.Tensor, by: dict[int, int]) -> torch.Tensor:
    for axis in range(2, u.ndim):
        u = u.narrow(axis, 1 + by.get(axis, 0), u.shape[axis] - 2)
    return u
