# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Surfaces of both images, given as meshes, which drive a registration beside the images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid, SpatialTransform, apply_affine, inside
from ..geometry.triangles import points_on, sorted_triangles
from ..io.meshes import SurfaceMesh, read_mesh
from ..roles import ROLES
from .surface_maps import SurfaceMap

__all__ = ["SurfaceSource", "Surfaces", "surface_pairs"]

#: what ``register(surfaces=...)`` accepts
SurfaceSource: TypeAlias = Sequence[Any]
SOURCES = (str, os.PathLike, SurfaceMesh)

MAX_NODES = 2**19  # of the maps of all surfaces of an image, 8 MiB
MAX_POINTS = 2**14  # on all surfaces
POINTS_OF_SURFACE = (64, 4096)  # fewest and most


@dataclass(frozen=True, eq=False)
class Surfaces:
    """S pairs of surfaces of the same structure. Their vertices need not correspond.

    Attributes:
        names: of the pairs: the names of the files of the fixed surfaces.
        weights: relative weight of each pair, ``(S,)`` float64.
        maps: the surfaces of the fixed and of the moving image.
    """

    names: tuple[str, ...]
    weights: torch.Tensor
    maps: tuple[tuple[SurfaceMap, ...], tuple[SurfaceMap, ...]]

    @classmethod
    def of(cls, given: SurfaceSource, fixed: Grid, moving: Grid, space: str = "auto") -> Surfaces:
        """Read pairs of surfaces.

        Args:
            given: see :func:`surface_pairs`.
            fixed, moving: grids of the images.
            space: of the coordinates in files, see :func:`monai_locor.io.meshes.read_mesh`.

        Raises:
            InputError: if a surface cannot be read or lies wholly outside the field of view of its image.
        """
        pairs = surface_pairs(given)
        if fixed.dims != 3:
            raise InputError(f"surfaces: are for images with 3 axes, the images have {fixed.dims}; give landmarks or labels.")
        count = min(max(MAX_POINTS // len(pairs), POINTS_OF_SURFACE[0]), POINTS_OF_SURFACE[1])
        sides = []
        for side, (role, grid) in enumerate(zip(ROLES, (fixed, moving), strict=True)):
            meshes = [_mesh(pair[side], role, space) for pair in pairs]
            step = float(grid.spacing.min()) / 2  # surfaces are finer than voxels
            for mesh in meshes:
                _check_inside(mesh, role, grid)
            sides.append(tuple(SurfaceMap.of(mesh, count, step, MAX_NODES // len(pairs)) for mesh in meshes))
        names = tuple(_name(pair[0], number) for number, pair in enumerate(pairs, 1))
        return cls(names, torch.tensor([pair[2] for pair in pairs], dtype=torch.float64), (sides[0], sides[1]))

    @property
    def numbers(self) -> int:
        """How many numbers the maps hold."""
        return sum(each.values.numel() for side in self.maps for each in side)

    def distances(self, initial: np.ndarray, transform: SpatialTransform) -> dict[str, Any]:
        """Return the mean distance of each pair before and after a registration, mm: the mean of both directions.

        Args:
            initial: initial affine, ``(4, 4)``, fixed to moving world points.
            transform: fixed to moving points, with an inverse.
        """
        out: dict[str, Any] = {"names": list(self.names)}
        for when, map_points in (("before", SpatialTransform.of_affine(initial)), ("after", transform)):
            each = [(_mean(map_points, a, b) + _mean(map_points.inverse(), b, a)) / 2 for a, b in zip(*self.maps, strict=True)]
            out[when] = {"mean": round(sum(each) / len(each), 4), "each": [round(value, 4) for value in each]}
        return out


def _mean(transform: SpatialTransform, source: SurfaceMap, target: SurfaceMap) -> float:
    """Mean distance of the mapped points of a surface from another one, mm."""
    return float(target.squared_distance(transform.points(source.points).cpu().double().T).sqrt().mean())


def surface_pairs(given: SurfaceSource) -> list[tuple[Any, Any, float]]:
    """The fixed surface, the moving surface and the weight of each pair.

    Args:
        given: a pair ``(fixed, moving)``, or a list of such pairs or ``(fixed, moving, weight)``. A surface is a file that
            :func:`monai_locor.io.meshes.read_mesh` reads, or a :class:`monai_locor.io.meshes.SurfaceMesh`.

    Raises:
        InputError: for anything else, or weights that are not finite, negative or all 0.
    """
    several = isinstance(given, (list, tuple)) and len(given) > 0 and not isinstance(given[0], SOURCES)
    pairs = list(given) if several else [given]
    for pair in pairs:
        shaped = isinstance(pair, (list, tuple)) and len(pair) in (2, 3)
        if not shaped or not all(isinstance(each, SOURCES) for each in pair[:2]):
            raise InputError(
                "surfaces: give (fixed surface, moving surface), or a list of such pairs, as files or SurfaceMesh."
            )
    weights = [pair[2] if len(pair) > 2 else 1.0 for pair in pairs]
    valid = all(isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0 for weight in weights)
    if not valid or not any(weights):
        raise InputError(f"surface weights: {weights}; give finite numbers, 0 or more, not all 0.")
    return [(pair[0], pair[1], float(weight)) for pair, weight in zip(pairs, weights, strict=True)]


def _mesh(source: Any, role: str, space: str) -> SurfaceMesh:
    return source if isinstance(source, SurfaceMesh) else read_mesh(source, space=space, what=f"{role} surface")


def _name(source: Any, number: int) -> str:
    return f"surface {number}" if isinstance(source, SurfaceMesh) else Path(source).name


def _check_inside(mesh: SurfaceMesh, role: str, grid: Grid) -> None:
    points = points_on(sorted_triangles(mesh.vertices, mesh.faces), POINTS_OF_SURFACE[1])[0]
    voxels = torch.from_numpy(apply_affine(np.linalg.inv(grid.affine), points.numpy())).T
    if bool(inside(voxels, grid.shape, margin=-0.5).any()):
        return
    low, high = (", ".join(f"{x:.4g}" for x in side.tolist()) for side in (points.amin(0), points.amax(0)))
    raise InputError(
        f"{mesh.name}: lies wholly outside the {role} image: it extends from ({low}) to ({high}) mm, RAS; check that both have "
        "coordinates in mm, and for files other than GIFTI and FreeSurfer's set surface_space (--surface-space) to ras or lps"
    )
