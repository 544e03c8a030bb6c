# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Sets of rotations and reflections for the multi-start search."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import torch

from ...networks.affine import matrix_exponential

__all__ = ["axis_reflections", "axis_rotations", "even_rotations", "near_rotations"]

NEAR_ANGLES = {2: (-36, -30, -24, -18, -12, -6, 0, 6, 12, 18, 24, 30, 36), 3: (-20, 0, 20)}  # degrees, about every axis


def near_rotations(dims: int) -> list[np.ndarray]:
    """Return the rotation matrices ``(D, D)`` on a grid of rotation vectors, up to about 35 degrees."""
    return [_rotation(dims, angles) for angles in product(NEAR_ANGLES[dims], repeat=dims * (dims - 1) // 2)]


def _rotation(dims: int, degrees: tuple[float, ...]) -> np.ndarray:
    i, j = np.triu_indices(dims, 1)
    log = torch.zeros(dims, dims, dtype=torch.float64, device="cpu")
    log[i, j] = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64, device="cpu"))
    return matrix_exponential(log - log.T).numpy()


def axis_rotations(dims: int) -> list[np.ndarray]:
    """Return the rotations ``(D, D)`` that map every axis to an axis: 4 in 2-D, 24 in 3-D."""
    return [m for m in _signed_permutations(dims) if np.linalg.det(m) > 0]


def axis_reflections(dims: int) -> list[np.ndarray]:
    """Return the reflections ``(D, D)`` that map every axis to an axis: 4 in 2-D, 24 in 3-D."""
    return [m for m in _signed_permutations(dims) if np.linalg.det(m) < 0]


def _signed_permutations(dims: int) -> list[np.ndarray]:
    signs = list(product((1.0, -1.0), repeat=dims))
    return [np.eye(dims)[list(order)] * sign for order in permutations(range(dims)) for sign in signs]


def even_rotations(dims: int, count: int) -> list[np.ndarray]:
    """Return evenly distributed rotation matrices ``(D, D)``.

    In 3-D: a super-Fibonacci spiral of unit quaternions (Alexa 2022, "Super-Fibonacci spirals: fast, low-discrepancy sampling
    of SO(3)"). With 300 of them, any rotation is within 32 degrees of one, 18 on average.
    """
    if dims == 2:
        turns = (2 * math.pi * k / count for k in range(count))
        return [np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in turns]
    index = np.arange(count) + 0.5
    low, high = np.sqrt(index / count), np.sqrt(1 - index / count)
    # the two constants of the paper: psi is the root of psi^4 = psi + 4
    alpha, beta = 2 * math.pi * index / math.sqrt(2), 2 * math.pi * index / 1.533751168755204288118041
    quaternions = np.stack((low * np.sin(alpha), low * np.cos(alpha), high * np.sin(beta), high * np.cos(beta)), 1)
    return [_of_quaternion(q) for q in quaternions]


def _of_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrix of a unit quaternion ``(x, y, z, w)``."""
    vector, w = quaternion[:3], quaternion[3]
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: np.ndarray = (w * w - vector @ vector) * np.eye(3) + 2 * np.outer(vector, vector) + 2 * w * cross
    return rotation
