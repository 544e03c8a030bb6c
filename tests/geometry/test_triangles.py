# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Points on triangles and nearest points, against a slow search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry.triangles import nearest_on_triangles, nearest_triangles, points_on, sorted_triangles, triangle_areas

from ..meshes import ellipsoid
from ..slow_distance import distance_from_triangle, distances_from_mesh

MESH = ellipsoid(rings=6, open_rings=2)


def some_triangles(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 3, 3)))


def test_nearest_points_are_those_of_a_slow_search():
    triangles, points = some_triangles(200), 3 * some_triangles(200, 1)[:, 0]
    found = (nearest_on_triangles(points, triangles) - points).norm(dim=1)
    expected = [distance_from_triangle(p, t) for p, t in zip(points.numpy(), triangles.numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_points_are_equally_dense():
    triangles = sorted_triangles(MESH.vertices, MESH.faces)
    points, owners = points_on(triangles, 20_000)
    assert float((nearest_on_triangles(points, triangles[owners]) - points).norm(dim=1).max()) < 1e-9
    areas = triangle_areas(triangles)
    expected = 20_000 * areas / areas.sum()
    assert float((owners.bincount(minlength=len(areas)) - expected).abs().max()) <= 1.01
    one = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]]).double()
    np.testing.assert_allclose(points_on(one, 4000)[0].mean(0), [1 / 3, 1 / 3, 0], atol=0.02)


def test_the_order_of_vertices_and_faces_does_not_matter():
    rng = np.random.default_rng(0)
    order, faces = rng.permutation(len(MESH.vertices)), rng.permutation(MESH.faces)
    numbers = np.argsort(order)[np.roll(faces, 1, 1)]
    expected, found = sorted_triangles(MESH.vertices, MESH.faces), sorted_triangles(MESH.vertices[order], numbers)
    assert torch.equal(found, expected)


def test_triangles_without_an_area_are_left_out():
    assert len(sorted_triangles(np.eye(3), np.array([[0, 1, 2], [0, 1, 1], [2, 2, 2]]))) == 1
    assert len(sorted_triangles(MESH.vertices, MESH.faces)) < len(MESH.faces)  # at the pole


@pytest.mark.parametrize(("step", "shape"), [(1.25, (33, 31, 29)), (2.5, (17, 16, 15))])
def test_vectors_lead_from_nodes_to_the_surface(step, shape):
    triangles, first = sorted_triangles(MESH.vertices, MESH.faces), torch.tensor([-20.0, -19.0, -18.0]).double()
    vectors = nearest_triangles(triangles, first, step, shape).flatten(1).T.double()
    nodes = first + step * torch.cartesian_prod(*[torch.arange(n) for n in shape]).double()
    some = np.random.default_rng(0).choice(len(nodes), 150, replace=False)
    expected = distances_from_mesh(nodes[some].numpy(), triangles.numpy())
    found = vectors[some].norm(dim=1).numpy()
    assert (found > expected - 1e-5).all() and np.abs(found - expected).max() < 0.3 * step
    assert np.median(np.abs(found - expected)) < 1e-5
