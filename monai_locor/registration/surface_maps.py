# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A surface of triangles in a registration: points on it, and the distance of any point from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..geometry import sample_planar
from ..geometry.triangles import nearest_triangles, points_on, sorted_triangles
from ..io.meshes import SurfaceMesh

__all__ = ["SurfaceMap"]

MARGIN_SHARE = 0.15  # of the largest extent of the surface, on every side
MARGIN_NODES = 4


@dataclass(frozen=True, eq=False)
class SurfaceMap:
    """A surface, open or closed.

    The map holds vectors to the nearest point of the surface. Unlike distances without a sign, vectors can be interpolated
    across the surface: the distance from a plane is exact. Midway between two parts of the surface, where vectors of opposite
    directions cancel, the interpolated distance, less that of nodes, is the lower bound.

    Attributes:
        points: on the surface, equally dense in its area, ``(N, 3)`` float64, RAS mm.
        values: vectors from the nodes of a box around the surface to its nearest point, and the lengths of the vectors less the
            distance of nodes, ``(1, 4, *nodes)`` float32, mm.
        center: of the box, whose edges are parallel to the axes of the world, ``(3,)`` float64, RAS mm.
        halves: distance of its outermost nodes from the center along each axis, ``(3,)`` float64, mm.
    """

    points: torch.Tensor
    values: torch.Tensor
    center: torch.Tensor
    halves: torch.Tensor

    @classmethod
    def of(cls, mesh: SurfaceMesh, count: int, step: float, max_nodes: int) -> SurfaceMap:
        """Make the map of a surface.

        Args:
            mesh: the surface.
            count: number of points.
            step: smallest distance of nodes, mm.
            max_nodes: most nodes; the distance is larger if the step would need more.
        """
        triangles = sorted_triangles(mesh.vertices, mesh.faces)
        low, high = triangles.amin((0, 1)), triangles.amax((0, 1))
        while True:
            half = (high - low) / 2 + MARGIN_SHARE * (high - low).max() + MARGIN_NODES * step
            nodes = (2 * half / step).ceil().long() + 1
            if float(nodes.double().prod()) <= max_nodes:
                break
            step *= 1.05
        halves, center = (nodes - 1) * step / 2, (low + high) / 2
        x, y, z = nodes.tolist()
        vectors = nearest_triangles(triangles, center - halves, step, (x, y, z))
        bound = torch.linalg.vector_norm(vectors, dim=0, keepdim=True) - step
        return cls(points_on(triangles, count)[0], torch.cat((vectors, bound))[None], center, halves)

    def to(self, device: torch.device | str) -> SurfaceMap:
        """Return a copy on a device."""
        return SurfaceMap(*(x.to(device) for x in (self.points, self.values, self.center, self.halves)))

    def squared_distance(self, points: torch.Tensor) -> torch.Tensor:
        """Return the squared distance of points from the surface, ``(N,)`` float64, mm^2.

        Beyond the box, it is the distance from the point of the surface that is nearest to the nearest point of the box, so
        that there is a gradient toward the surface wherever the point is.

        Args:
            points: ``(3, N)`` float64, RAS mm.
        """
        relative = (points - self.center[:, None]) / self.halves[:, None]
        within = relative.clamp(-1, 1)
        found = sample_planar(self.values, within.flip(0)[None].to(self.values), "border")[0].double()
        squared = (found[:3] + (within - relative) * self.halves[:, None]).square().sum(0)
        return torch.maximum(squared, found[3].clamp_min(0).square())
