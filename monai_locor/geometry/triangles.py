# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Points on triangles in space, and the nearest points on them."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["nearest_on_triangles", "nearest_triangles", "points_on", "sorted_triangles", "spread", "triangle_areas"]

CHUNK = 2**17  # triangles at a time


def sorted_triangles(vertices: np.ndarray, faces: np.ndarray) -> torch.Tensor:
    """Corners of the triangles that have an area, in an order that the order of vertices and faces does not change.

    Args:
        vertices: ``(N, 3)`` float64.
        faces: indices of vertices, ``(M, 3)``.

    Returns:
        ``(M, 3, 3)`` float64, a corner in each row.
    """
    corners = vertices[faces]
    order = np.lexsort((corners[..., 2], corners[..., 1], corners[..., 0]), axis=-1)
    corners = np.take_along_axis(corners, order[..., None], 1)
    found = torch.from_numpy(corners[np.lexsort(corners.reshape(-1, 9).T[::-1])])
    return found[triangle_areas(found) > 0]


def triangle_areas(triangles: torch.Tensor) -> torch.Tensor:
    """Areas of triangles ``(M, 3, 3)``, ``(M,)``.

    >>> triangle_areas(torch.tensor([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]]))
    tensor([3.])
    """
    a, b, c = triangles.unbind(1)
    return torch.linalg.vector_norm(torch.linalg.cross(b - a, c - a), dim=1) / 2


def spread(areas: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of ``count`` faces at equal distances along the sum of their areas; of few faces, some more than once.

    >>> spread(torch.tensor([1.0, 3.0]), 4)
    tensor([0, 1, 1, 1])
    """
    total = areas.cumsum(0)
    return torch.searchsorted(total, (torch.arange(count) + 0.5) / count * total[-1]).clamp_max(len(areas) - 1)


def points_on(triangles: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points at equal distances along the sum of the areas, at random places of their triangles (a fixed seed).

    Args:
        triangles: ``(M, 3, 3)`` float64.
        count: number of points.

    Returns:
        points, ``(count, 3)``, and indices of their triangles, ``(count,)``.
    """
    owners = spread(triangle_areas(triangles), count)
    random = torch.rand(2, count, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root, share = random[0].sqrt(), random[1]
    a, b, c = triangles[owners].unbind(1)
    return (1 - root) * a + root * (1 - share) * b + root * share * c, owners


def nearest_on_triangles(points: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
    """The nearest point on its triangle for each point.

    Args:
        points: ``(N, 3)``.
        triangles: one for each point, with an area, ``(N, 3, 3)``.

    >>> corners = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> nearest_on_triangles(torch.tensor([[0.5, 1.0, 5.0]]), corners[None])
    tensor([[0.5000, 1.0000, 0.0000]])
    """
    a, b, c = triangles.unbind(1)
    ab, ac, ap = b - a, c - a, points - a
    normal = torch.linalg.cross(ab, ac)
    size = normal.square().sum(1, keepdim=True)
    v = (torch.linalg.cross(ap, ac) * normal).sum(1, keepdim=True) / size
    w = (torch.linalg.cross(ab, ap) * normal).sum(1, keepdim=True) / size
    found = a + v * ab + w * ac
    outside = (v < 0) | (w < 0) | (v + w > 1)
    best = torch.where(outside, torch.inf, 0.0).to(points)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        share = ((points - start) * edge).sum(1, keepdim=True) / edge.square().sum(1, keepdim=True)
        place = start + share.clamp(0, 1) * edge
        apart = (points - place).square().sum(1, keepdim=True)
        found, best = torch.where(apart < best, place, found), torch.minimum(best, apart)
    return found


def nearest_triangles(triangles: torch.Tensor, first: torch.Tensor, step: float, shape: tuple[int, int, int]) -> torch.Tensor:
    """Vectors from the nodes of a lattice to the nearest triangle, ``(3, *shape)`` float32.

    Points on the triangles, some for each node near them, are assigned to the nearest nodes. Then, along one axis after the
    other, each node takes over the nearest of the points of its line. At last it takes the nearest place of the triangle of
    its point.

    Args:
        triangles: ``(M, 3, 3)`` float64, each with an area.
        first: position of the first node, ``(3,)`` float64. All triangles must lie within the lattice.
        step: distance of nodes.
        shape: number of nodes along each axis.
    """
    count = int(min(max(9 * float(triangle_areas(triangles).sum()) / step**2, 2**12), 2**20))
    points, owners = points_on(triangles, count)
    places, owners = _carried(*_nearest_seeds((points - first) / step, owners, shape))
    out = torch.empty(3, places[0].numel())
    index = torch.arange(out.shape[1])
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1])
    for part in index.split(CHUNK):
        nodes = first + step * (part[:, None] // strides % torch.tensor(shape)).double()
        out[:, part] = (nearest_on_triangles(nodes, triangles[owners.flatten()[part]]) - nodes).T.float()
    return out.view(3, *shape)


def _nearest_seeds(
    points: torch.Tensor, owners: torch.Tensor, shape: tuple[int, int, int]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Positions along each axis, and owner, of the point nearest to each node within half a step; infinite without one."""
    nodes = points.round()
    flat = ((nodes[:, 0] * shape[1] + nodes[:, 1]) * shape[2] + nodes[:, 2]).long()
    order = np.lexsort(((points - nodes).square().sum(1).numpy(), flat.numpy()))
    kept, chosen = np.unique(flat.numpy()[order], return_index=True)
    first = torch.from_numpy(order[chosen])
    places = torch.full((3, shape[0] * shape[1] * shape[2]), torch.inf)
    numbers = torch.zeros(places.shape[1], dtype=torch.int64)
    places[:, kept], numbers[kept] = points[first].T.float(), owners[first]
    return list(places.view(3, *shape)), numbers.view(shape)


def _carried(places: list[torch.Tensor], owners: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Carry the points of :func:`_nearest_seeds` to all nodes, see :func:`nearest_triangles`."""
    shape = owners.shape
    nodes = [torch.arange(n).float().view([-1 if k == axis else 1 for k in range(3)]) for axis, n in enumerate(shape)]
    for axis, size in enumerate(shape):
        one, other = (k for k in range(3) if k != axis)
        across = (places[one] - nodes[one]).square() + (places[other] - nodes[other]).square()
        along, node = places[axis], nodes[axis]
        best = across + (along - node).square()
        source = node.long().expand(shape).clone()
        for apart in range(1, size):
            for to, of in ((0, apart), (apart, 0)):
                n = size - apart
                found = across.narrow(axis, of, n) + (along.narrow(axis, of, n) - node.narrow(axis, to, n)).square()
                own = best.narrow(axis, to, n)
                number = torch.arange(of, of + n).view(node.narrow(axis, to, n).shape)
                source.narrow(axis, to, n).copy_(torch.where(found < own, number, source.narrow(axis, to, n)))
                torch.minimum(found, own, out=own)
        places = [x.gather(axis, source) for x in places]
        owners = owners.gather(axis, source)
    return places, owners
