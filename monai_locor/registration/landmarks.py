# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Corresponding points of both images, which drive a registration beside the images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid, SpatialTransform, apply_affine
from ..io.points import PointList, matching_order, read_points
from ..tensors import as_tensor

__all__ = ["LandmarkSource", "Landmarks"]

#: what ``register(landmarks=...)`` accepts
LandmarkSource: TypeAlias = "Landmarks | Sequence[Any] | Mapping[str, Any]"
NAMES = ("fixed", "moving", "weights")


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of the fixed image and the corresponding points of the moving image.

    Attributes:
        fixed, moving: ``(N, D)`` float64, RAS mm, point i of one image corresponds to point i of the other.
        weights: relative weight of each pair, ``(N,)`` float64.
        shares: factor of the weight of each pair in both directions, ``(N,)`` float64 each; None for 1.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    weights: torch.Tensor
    shares: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def of(cls, given: LandmarkSource) -> Landmarks:
        """Read landmarks and check that they form pairs.

        Args:
            given: ``(fixed, moving)`` or ``(fixed, moving, weights)``, or a mapping with these names. The points of an image
                are a file that :func:`monai_locor.io.read_points` reads, a :class:`monai_locor.io.PointList`, or numbers
                ``(N, D)``, RAS mm. Points with labels are paired by label if both lists have the same, unique labels;
                otherwise by order. Weights are in the order of the fixed points.

        Raises:
            InputError: if the numbers of points differ, a number is not finite, or a weight is negative.
        """
        if isinstance(given, Landmarks):
            return given
        parts = [given.get(name) for name in NAMES] if isinstance(given, Mapping) else [*given, None][:3]
        if len(given) not in (2, 3) or any(part is None for part in parts[:2]):
            raise InputError("landmarks: give (fixed points, moving points) or (fixed points, moving points, weights).")
        fixed, moving = (_points(part, name) for part, name in zip(parts[:2], NAMES[:2], strict=True))
        order = matching_order(fixed.labels, moving.labels)
        target = moving.points if order is None else moving.points[order]
        if fixed.points.shape != target.shape:
            counts = [f"{len(x)} points of {x.shape[1]} coordinates" for x in (fixed.points, target)]
            raise InputError(f"landmarks: fixed {counts[0]}, moving {counts[1]}; give the same landmarks in both.")
        return cls(fixed.points, target, _weights(parts[2], len(target)))

    def check_inside(self, fixed: Grid, moving: Grid) -> None:
        """Check that the points lie in the fields of view of their images.

        Raises:
            InputError: for the first point that does not; the message names it.
        """
        for role, points, grid in (("fixed", self.fixed, fixed), ("moving", self.moving, moving)):
            if points.shape[1] != grid.dims:
                raise InputError(f"landmarks: have {points.shape[1]} coordinates, the images {grid.dims} axes; give as many.")
            voxels = apply_affine(np.linalg.inv(grid.affine), points.numpy())
            outside = ((voxels < -0.5) | (voxels > np.array(grid.shape) - 0.5)).any(1)
            if outside.any():
                number = int(outside.argmax())
                place = ", ".join(f"{x:.6g}" for x in points[number].tolist())
                raise InputError(
                    f"landmark {number + 1} of the {role} points, ({place}) mm: lies outside the {role} image; "
                    "check its coordinates (RAS mm) and the order of the two lists."
                )

    def described(self) -> dict[str, Any]:
        """Return the values as plain numbers, which :meth:`of` accepts."""
        return {name: getattr(self, name).tolist() for name in NAMES}

    def distances(self, initial: np.ndarray, forward_mm: torch.Tensor, grid: Grid) -> dict[str, Any]:
        """Return the distances between mapped fixed points and moving points before and after a registration, mm.

        Args:
            initial: initial affine, ``(D + 1, D + 1)``, fixed to moving world points.
            forward_mm: forward displacement, ``(D, *grid)``, RAS mm.
            grid: grid of the fixed image.
        """
        transform = SpatialTransform.of_field(forward_mm, grid)
        both = {"before": torch.from_numpy(apply_affine(initial, self.fixed.numpy())), "after": transform.points(self.fixed)}
        return {"count": len(self.fixed), **{when: self.distances_of(mapped.cpu()) for when, mapped in both.items()}}

    def distances_of(self, mapped: torch.Tensor) -> dict[str, Any]:
        """Return the distances of mapped fixed points, ``(N, D)`` float64, RAS mm, from the moving points, mm."""
        each = torch.linalg.vector_norm(mapped - self.moving, dim=1).numpy()
        values = {"mean": each.mean(), "median": np.median(each), "max": each.max()}
        return {**{name: round(float(value), 4) for name, value in values.items()}, "each": each.round(4).tolist()}


def _points(given: Any, role: str) -> PointList:
    if isinstance(given, (str, os.PathLike)):
        return read_points(given, what=f"{role} landmarks")
    try:
        found = given if isinstance(given, PointList) else PointList(as_tensor(given).detach().cpu())
    except (TypeError, ValueError) as error:
        raise InputError(f"{role} landmarks: are not points ({error}); give a file or numbers (N, D), RAS mm.") from error
    bad = (~found.points.isfinite().all(1)).nonzero().flatten().tolist()
    if bad or not len(found):
        problem = f"point {bad[0] + 1} is not finite" if bad else "there are none"
        raise InputError(f"{role} landmarks: {problem}; give finite coordinates in RAS mm.")
    return found


def _weights(given: Any, count: int) -> torch.Tensor:
    weights = torch.ones(count, dtype=torch.float64) if given is None else as_tensor(given).detach().cpu().double()
    if tuple(weights.shape) != (count,):
        raise InputError(f"landmark weights: have shape {tuple(weights.shape)} for {count} landmarks; give one per landmark.")
    valid = bool(weights.isfinite().all()) and bool((weights >= 0).all()) and bool(weights.sum() > 0)
    if not valid:
        raise InputError(f"landmark weights: {weights.tolist()[:8]}; give finite numbers, 0 or more, not all 0.")
    return weights
