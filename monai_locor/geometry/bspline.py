# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The cubic B-spline (Unser 1999, doi 10.1109/79.799930), the basis of velocities, free-form deformations and images."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

    Values = TypeVar("Values", torch.Tensor, np.ndarray)

__all__ = ["CUBIC_NODE_VALUES", "cubic_bspline", "cubic_weights"]

CUBIC_NODE_VALUES = {-1: 1 / 6, 0: 4 / 6, 1: 1 / 6}  # spline values at its node and the neighboring nodes


def cubic_bspline(distance: Values) -> Values:
    """The cubic B-spline at a distance from its node.

    Args:
        distance: distances in units of the node spacing, tensor or array of any shape.

    Returns:
        values of the same shape and type.

    >>> cubic_bspline(np.array([-1.0, 0.0, 1.0, 2.0])).round(4).tolist()
    [0.1667, 0.6667, 0.1667, 0.0]
    """
    d = abs(distance)
    near, far = 2 / 3 - d**2 + d**3 / 2, (2 - d).clip(0, None) ** 3 / 6
    if isinstance(distance, np.ndarray):
        return np.where(d < 1, near, far)
    import torch

    return torch.where(d < 1, near, far)


def cubic_weights(offset: torch.Tensor) -> torch.Tensor:
    """Weights :func:`cubic_bspline` of the four nodes around positions, from the polynomial pieces.

    Args:
        offset: distance of the positions from the second of the four nodes, in [0, 1] node spacings, ``(*any)``.

    Returns:
        weights ``(4, *any)``, which sum to one.
    """
    import torch

    t = offset
    return torch.stack([(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]) / 6
