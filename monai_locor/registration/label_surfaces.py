# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Surfaces of the labels of an image: points on each, and the distance of any point from each.

Each label has a map of the signed distance on a cube of its own, which is larger than the label by a margin. The nodes of all
cubes are equally far apart, not closer than voxels and so that all cubes have at most :data:`MAX_NODES` together: the memory
depends neither on the number of labels nor on the size of the image. Cubes of about the same size are one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..geometry import Grid, apply_affine, identity_points, reorder, sample, sample_planar
from ..geometry.distance import signed_distance
from ..geometry.triangles import spread

__all__ = ["DistanceMaps", "LabelSurfaces", "surface_faces"]

MAX_NODES = 2**23  # of all cubes of an image, 32 MiB
NODES_ALONG = tuple(round(16 * 1.25**n) for n in range(16))  # possible sizes of cubes
MAX_POINTS = 2**14  # on the surfaces of all labels
POINTS_OF_LABEL = (64, 4096)  # fewest and most
MARGIN_SHARE = 0.15  # of the extent of a label, on every side
MARGIN_VOXELS = 4


@dataclass(frozen=True, eq=False)
class DistanceMaps:
    """Signed distance from the surfaces of G labels, negative inside.

    Attributes:
        labels: their places in the list of all labels, ``(G,)`` int64.
        maps: at the nodes of the cubes, ``(G, 1, *nodes)`` float32, mm.
        centers: of the cubes, ``(G, D)`` float64, RAS mm. Their edges are parallel to the axes of the world.
        halves: distance of their outermost nodes from the center along an axis, ``(G,)`` float64, mm.
    """

    labels: torch.Tensor
    maps: torch.Tensor
    centers: torch.Tensor
    halves: torch.Tensor

    def to(self, device: torch.device | str) -> DistanceMaps:
        """Return a copy on a device."""
        return DistanceMaps(*(x.to(device) for x in (self.labels, self.maps, self.centers, self.halves)))

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Return the distance of points from the surface of their label, ``(G, N)`` float64, mm.

        Beyond the cube of a label, it is that at the nearest point of the cube plus the distance to it, so that there is a
        gradient toward the label wherever the point is.

        Args:
            points: N for each of all labels, ``(D, L, N)`` float64, RAS mm.
        """
        own = points.index_select(1, self.labels).transpose(0, 1)
        relative = (own - self.centers[:, :, None]) / self.halves[:, None, None]
        within = relative.clamp(-1, 1)
        beyond = torch.linalg.vector_norm(relative - within, dim=1) * self.halves[:, None]
        return sample_planar(self.maps, within.flip(1).to(self.maps), "border")[:, 0] + beyond


@dataclass(frozen=True, eq=False)
class LabelSurfaces:
    """Surfaces of L labels of an image.

    Attributes:
        points: on each surface, equally dense in the area of the faces of voxels, ``(L, N, D)`` float64, RAS mm.
        distances: distance maps, each label in one of them.
    """

    points: torch.Tensor
    distances: tuple[DistanceMaps, ...]

    @property
    def numbers(self) -> int:
        """Number of nodes of the distance maps."""
        return sum(part.maps.numel() for part in self.distances)

    @classmethod
    def of(cls, image: torch.Tensor, grid: Grid, labels: Sequence[int]) -> LabelSurfaces:
        """Find the surfaces of labels.

        The border of the image is not a surface: a label that reaches it continues beyond.

        Args:
            image: label map, ``(1, *grid)``.
            grid: grid of the label map.
            labels: sorted labels to use, each with a surface, see :func:`surface_faces`.
        """
        order = grid.canonical_order()
        numbers, grid = reorder(_numbered(image, labels), *order), grid.reordered(*order)
        faces, areas, owners = surface_faces(numbers, grid)
        ends = torch.searchsorted(owners, torch.arange(1, len(labels) + 2)).tolist()
        parts = [slice(a, b) for a, b in pairwise(ends)]
        count = min(max(MAX_POINTS // len(labels), POINTS_OF_LABEL[0]), POINTS_OF_LABEL[1])
        points = torch.stack([faces[part][spread(areas[part], count)] for part in parts])
        low, high = (torch.stack([side(faces[part], 0) for part in parts]) for side in (torch.amin, torch.amax))
        halves = (0.5 + MARGIN_SHARE) * (high - low).amax(1) + MARGIN_VOXELS * float(grid.spacing.min())
        sizes, distances = _sizes(halves.tolist(), grid), []
        for size in sorted(set(sizes)):
            own = torch.tensor([k for k, n in enumerate(sizes) if n == size])
            cubes = (low + high)[own] / 2, halves[own]
            inside = [
                _inside(numbers, k + 1, grid, faces[parts[k]], (center, half, size))
                for k, center, half in zip(own.tolist(), cubes[0], cubes[1].tolist(), strict=True)
            ]
            steps = (2 * cubes[1] / (size - 1)).float().view(-1, *[1] * grid.dims)
            distances.append(DistanceMaps(own, (signed_distance(torch.stack(inside)) * steps)[:, None], *cubes))
        return cls(points, tuple(distances))


def _sizes(halves: Sequence[float], grid: Grid) -> list[int]:
    """Nodes along each axis of the cube of each label: as close as the voxels, or as :data:`MAX_NODES` allows."""
    step = float(grid.spacing.min())
    while True:
        needed = [2 * half / step + 1 for half in halves]
        sizes = [next((n for n in NODES_ALONG if n >= least), NODES_ALONG[-1]) for least in needed]
        if sum(n**grid.dims for n in sizes) <= MAX_NODES or max(sizes) == NODES_ALONG[0]:
            return sizes
        step *= 1.05


def _numbered(image: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    """The place of each voxel's label in the sorted list, counted from 1; 0 for others; int32."""
    known = torch.tensor(labels, dtype=torch.int64)
    place = torch.searchsorted(known, image.long()).clamp_max(len(known) - 1)
    return torch.where(known[place] == image, place + 1, 0).int()


def surface_faces(numbers: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Faces between voxels of different labels.

    Args:
        numbers: label map, ``(1, *grid)``, 0 for voxels without a label.
        grid: its grid.

    Returns:
        centers, ``(N, D)`` float64, RAS mm; areas, ``(N,)`` float64, mm^2; and labels, sorted. A face between two labels is
        in the list for each of them.
    """
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    volume = abs(float(np.linalg.det(grid.affine[:-1, :-1])))
    heights = 1 / np.linalg.norm(np.linalg.inv(grid.affine[:-1, :-1]), axis=1)  # distance of neighboring planes of voxels
    for axis, n in enumerate(grid.shape):
        pair = numbers[0].narrow(axis, 0, n - 1), numbers[0].narrow(axis, 1, n - 1)
        where = (pair[0] != pair[1]).nonzero()
        owners = torch.cat([side[tuple(where.T)] for side in pair])
        places = where.double().repeat(2, 1)
        places[:, axis] += 0.5
        kept = owners > 0
        area = torch.full((int(kept.sum()),), volume / heights[axis], dtype=torch.float64)
        found.append((places[kept], area, owners[kept]))
    places, areas, owners = (torch.cat(column) for column in zip(*found, strict=True))
    order = owners.argsort(stable=True)
    world = torch.from_numpy(apply_affine(grid.affine, places[order].numpy()))
    return world, areas[order], owners[order].contiguous()


def _inside(
    numbers: torch.Tensor, number: int, grid: Grid, faces: torch.Tensor, cube: tuple[torch.Tensor, float, int]
) -> torch.Tensor:
    """Which nodes of its cube lie in a label, ``(*size)`` bool, some but not all.

    Args:
        numbers, grid: label map, ``(1, *grid)``.
        number: the label.
        faces: centers of its faces, ``(N, D)``, RAS mm.
        cube: center, ``(D,)``, and half of the side, mm; nodes along each axis.
    """
    center, half, size = cube
    index = identity_points((size,) * grid.dims)
    to_voxels = np.linalg.inv(grid.affine)
    linear = to_voxels[:-1, :-1] * (2 * half / (size - 1))
    first = apply_affine(to_voxels, center.numpy() - half)
    voxels = torch.tensordot(torch.from_numpy(linear).float(), index, dims=1)
    voxels += torch.from_numpy(first).float().view(-1, *[1] * grid.dims)
    inside = sample(numbers[None], voxels[None], "nearest", "border")[0, 0] == number
    if bool(inside.all()) or not bool(inside.any()):  # it, or what is around it, is thinner than the distance of the nodes
        nearest = ((faces - center + half) * ((size - 1) / (2 * half))).round().long().clamp(0, size - 1)
        inside[tuple(nearest.T)] = not bool(inside.any())
    return inside
