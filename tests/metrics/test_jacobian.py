# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Jacobian determinants and folding: analytic fields, every storage order, and a slow second implementation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, apply_affine, reorder
from monai_locor.metrics import jacobian_determinant, jacobian_statistics, non_diffeomorphic_volume
from monai_locor.metrics.arrays import field_statistics, jacobian_statistics_of_array

OBLIQUE = np.array([[-1.4, 0.3, 0.2, 10], [0.2, 0.2, 2.5, -5], [0.1, -1.9, 0.3, 3], [0, 0, 0, 1.0]])
PLANE = np.array([[0.3, -1.5, 2], [-1.1, 0.2, 4], [0, 0, 1.0]])
ORDERS = [(axes, flips) for axes in permutations(range(3)) for flips in product((False, True), repeat=3)]


def oblique_grid(dims: int) -> Grid:
    return Grid((7, 9, 8), OBLIQUE) if dims == 3 else Grid((11, 8), PLANE)


def displacement(grid: Grid, world) -> torch.Tensor:
    """``u`` of a map of world points."""
    points = grid.points()
    return torch.from_numpy(np.moveaxis(world(points) - points, -1, 0).copy())


def matrix_map(dims: int, seed: int) -> np.ndarray:
    out = np.eye(dims + 1)
    out[:-1] += 0.2 * np.random.default_rng(seed).standard_normal((dims, dims + 1))
    return out


def fold(grid: Grid, size: float = 3.0) -> torch.Tensor:
    """A shift in a small ball in the middle, strong enough to run over its neighbors."""

    def world(points: np.ndarray) -> np.ndarray:
        distance = ((points - grid.center) ** 2).sum(-1, keepdims=True) / grid.spacing.min() ** 2
        return points + size * grid.spacing.max() * np.exp(-distance)

    return displacement(grid, world)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_affine_is_exact_on_oblique_flipped_grids(dims, seed):
    matrix = matrix_map(dims, seed)
    u = displacement(oblique_grid(dims), lambda x: apply_affine(matrix, x))
    expected = np.linalg.det(matrix)
    np.testing.assert_allclose(jacobian_determinant(u, oblique_grid(dims)).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(jacobian_determinant(u.float(), oblique_grid(dims)).numpy(), expected, rtol=1e-4)


def test_rotation_keeps_volume_and_reflection_folds_everything():
    grid = oblique_grid(3)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    u = displacement(grid, lambda x: x @ (rotation * np.linalg.det(rotation)).T)
    torch.testing.assert_close(jacobian_determinant(u, grid), torch.ones(grid.shape, dtype=torch.float64))
    mirrored = jacobian_statistics(displacement(grid, lambda x: x * [-1, 1, 1]), grid)
    assert mirrored["folding_percent"] == 100 and mirrored["ndv"] == pytest.approx(100)


def test_matches_a_slow_implementation_in_world_space():
    grid = oblique_grid(3)
    u = 2 * torch.from_numpy(np.random.default_rng(0).standard_normal((3, *grid.shape)))
    moved = np.moveaxis(u.numpy(), 0, -1) + grid.points()
    by_index = np.stack([np.stack(np.gradient(moved[..., k], axis=(0, 1, 2)), -1) for k in range(3)], -2)
    expected = np.linalg.det(by_index @ np.linalg.inv(grid.affine[:3, :3]))
    np.testing.assert_allclose(jacobian_determinant(u, grid).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(("axes", "flips"), ORDERS)
def test_every_storage_order_gives_the_same_determinant(axes, flips):
    grid, u = oblique_grid(3), fold(oblique_grid(3))
    stored = reorder(u, axes, flips)
    expected = reorder(jacobian_determinant(u, grid), axes, flips, leading=0)
    torch.testing.assert_close(jacobian_determinant(stored, grid.reordered(axes, flips)), expected)
    same = non_diffeomorphic_volume(stored, grid.reordered(axes, flips))
    assert same == pytest.approx(non_diffeomorphic_volume(u, grid)) and same > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_folding_is_found_where_it_is(dims):
    grid, u = oblique_grid(dims), fold(oblique_grid(dims))
    found = jacobian_statistics(u, grid)
    assert found["min"] < 0 and found["folding_voxels"] > 0 and found["ndv"] > 0
    corner = torch.zeros(1, *grid.shape)
    corner[(0, *[slice(0, 2)] * dims)] = 1
    assert jacobian_statistics(u, grid, corner)["folding_voxels"] == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_a_displacement_in_training_is_measured_like_any_other(dims, recwarn):
    grid = oblique_grid(dims)
    u = fold(grid)
    learned = u.clone().requires_grad_()
    found = jacobian_determinant(learned, grid)
    assert not found.requires_grad and torch.equal(found, jacobian_determinant(u, grid))
    assert jacobian_statistics(learned, grid) == jacobian_statistics(u, grid)
    assert non_diffeomorphic_volume(learned, grid) == non_diffeomorphic_volume(u, grid)
    assert not recwarn.list


def test_statistics_of_a_known_spread():
    grid = Grid((4, 5, 6), np.diag([2.0, 1, 3, 1]))
    found = jacobian_statistics(displacement(grid, lambda x: x * [2, 1, 1]), grid)
    assert [found[k] for k in ("min", "p01", "p50", "p99", "max")] == pytest.approx([2] * 5)
    assert found["std_log"] == pytest.approx(0) and found["folding_percent"] == 0 and found["ndv"] == 0


def slow_ndv(u: np.ndarray) -> float:
    """Voxel by voxel, tetrahedra from their corners; ``u`` in voxels."""
    x = np.stack(np.meshgrid(*map(np.arange, u.shape[1:]), indexing="ij")) + u
    tetrahedra = [((a, 0, 0), (0, b, 0), (0, 0, c)) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
    tetrahedra += [((-1, -1, 0), (-1, 0, -1), (0, -1, -1)), ((1, 1, 0), (0, 1, 1), (1, 0, 1))]
    total, inner = 0.0, [range(1, n - 1) for n in u.shape[1:]]
    for position in product(*inner):
        for corners in tetrahedra:
            edges = [x[(slice(None), *(np.add(position, c)))] - x[(slice(None), *position)] for c in corners]
            volume = np.linalg.det(edges) / 6 * np.sign(np.linalg.det(corners))
            total += max(0.0, -volume) / 2
    return 100 * total / np.prod([len(r) for r in inner])


def test_ndv_matches_a_slow_implementation():
    u = 0.6 * np.random.default_rng(0).standard_normal((3, 5, 6, 4))
    assert non_diffeomorphic_volume(torch.from_numpy(u), Grid((5, 6, 4), np.eye(4))) == pytest.approx(slow_ndv(u))


def test_ndv_sees_what_central_differences_do_not():
    grid = Grid((8, 8, 8), np.eye(4))
    u = torch.zeros(3, 8, 8, 8)
    u[0, ::2] = 1.5  # every second sheet jumps over the next one; central differences skip over the sheet between
    assert jacobian_statistics(u, grid)["folding_voxels"] < 8**3 / 2
    assert jacobian_determinant(u, grid)[2:-2].min() == 1
    assert non_diffeomorphic_volume(u, grid) > 10


def test_ndv_of_the_plane_is_the_folded_area():
    grid = Grid((9, 9), np.eye(3))
    u = torch.zeros(2, 9, 9, dtype=torch.float64)
    u[0, 4:] = -3.0  # the strip between rows 3 and 4 is turned over and stretched to twice its area, on half of each side
    inner = 7
    assert non_diffeomorphic_volume(u, grid) == pytest.approx(100 * 2 * inner / inner**2)


def test_thin_grids_have_no_ndv_and_do_not_fold():
    grid = Grid((6, 7, 1), np.eye(4))
    found = jacobian_statistics(torch.zeros(3, 6, 7, 1), grid)
    assert found["ndv"] is None and found["min"] == 1


def test_refuses_what_makes_no_sense():
    grid = oblique_grid(3)
    with pytest.raises(ValueError, match=r"\(2, 7, 9, 8\)"):
        jacobian_determinant(torch.zeros(2, 7, 9, 8), grid)
    with pytest.raises(ValueError, match="not finite"):
        jacobian_statistics(torch.full((3, 7, 9, 8), float("nan")), grid)
    with pytest.raises(ValueError, match="empty"):
        jacobian_statistics(torch.zeros(3, 7, 9, 8), grid, torch.zeros(7, 9, 8))
    with pytest.raises(ValueError, match="mask"):
        jacobian_statistics(torch.zeros(3, 7, 9, 8), grid, torch.ones(3, 3, 3))


@pytest.mark.parametrize("shape", [(12, 9, 7), (40, 60, 30), (11, 8), (5, 1, 6), (2, 2, 2), (1, 4, 3), (6, 1)])
@pytest.mark.parametrize("size", [0.0, 0.5, 6.0])
def test_arrays_have_the_same_statistics(shape, size):
    """The statistics of ``info``, without torch: from smooth to folded fields, in slabs and whole."""
    rng = np.random.default_rng(len(shape))
    affine = np.eye(len(shape) + 1)
    affine[:-1, :-1] = np.linalg.qr(rng.normal(size=(len(shape),) * 2))[0] * rng.uniform(0.5, 3, len(shape))
    grid = Grid(shape, affine)
    field = (size * rng.normal(size=(len(shape), *shape))).astype(np.float32)
    ours, expected = jacobian_statistics_of_array(field, grid), jacobian_statistics(torch.from_numpy(field), grid)
    assert ours.keys() == expected.keys() and (ours["ndv"] is None) == (expected["ndv"] is None)
    assert ours["folding_voxels"] == pytest.approx(expected["folding_voxels"], abs=1 + 1e-4 * field.size)  # rounding at 0
    for key in set(ours) - {"folding_voxels", "folding_percent", "std_log"} - ({"ndv"} if ours["ndv"] is None else set()):
        assert ours[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-4 * max(size, 0.01)), key
    assert ours["std_log"] == pytest.approx(expected["std_log"], rel=1e-2, abs=1e-5)
    lengths = np.sort(np.linalg.norm(field.astype(float), axis=0).ravel())
    found = field_statistics(field)
    assert found["max"] == pytest.approx(lengths[-1]) and found["mean"] == pytest.approx(lengths.mean())
    assert found["p95"] == pytest.approx(lengths[round(0.95 * (len(lengths) - 1))])
