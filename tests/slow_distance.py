# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Distance of a point from triangles by its definition, slowly: a least-squares problem for the face, edges and corners."""

from __future__ import annotations

import itertools

import numpy as np


def distance_from_triangle(point: np.ndarray, corners: np.ndarray) -> float:
    """The least distance from the affine hulls of all subsets of corners, of which the nearest place lies within."""
    best = np.inf
    for count in (1, 2, 3):
        for chosen in itertools.combinations(corners, count):
            base, directions = chosen[0], np.array([other - chosen[0] for other in chosen[1:]]).reshape(-1, 3).T
            shares = np.linalg.lstsq(directions, point - base, rcond=None)[0] if count > 1 else np.zeros(0)
            if (shares >= 0).all() and shares.sum() <= 1:
                best = min(best, float(np.linalg.norm(point - base - directions @ shares)))
    return best


def distances_from_mesh(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Distance of each point from the nearest of ``(M, 3, 3)`` triangles; far triangles are passed over."""
    out = []
    for point in points:
        nearest = np.linalg.norm(triangles - point, axis=2).min()
        reach = np.linalg.norm(triangles - triangles.mean(1, keepdims=True), axis=2).max()
        near = triangles[np.linalg.norm(triangles.mean(1) - point, axis=1) <= nearest + reach]
        out.append(min(distance_from_triangle(point, corners) for corners in near))
    return np.array(out)
