# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Known-answer pairs: seeded, smooth, invertible, and independent of how the anatomy is stored."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.data import deform, random_diffeomorphism
from monai_locor.geometry import Grid, reorder
from monai_locor.metrics import jacobian_determinant, jacobian_statistics

from ..parameters import mostly_slow

GRID = Grid((20, 24, 18), np.array([[-5.0, 0.5, 0, 50], [0.4, 0.3, 4.5, -40], [0, -5.5, 0.2, 60], [0, 0, 0, 1]]))
FLAT = Grid((30, 26), np.array([[4.0, 0.5, -20], [-0.5, 4.0, 3], [0, 0, 1]]))


@pytest.mark.parametrize("grid", [GRID, FLAT], ids=["3d", "2d"])
def test_same_seed_same_bytes_and_no_folding(grid):
    u = random_diffeomorphism(grid, 3)
    assert u.shape == (grid.dims, *grid.shape) and u.dtype == torch.float32
    assert u.numpy().tobytes() == random_diffeomorphism(grid, 3).numpy().tobytes()
    assert not torch.equal(u, random_diffeomorphism(grid, 4))
    found = jacobian_statistics(u, grid)
    assert found["folding_voxels"] == 0 and found["ndv"] == 0 and found["std_log"] > 0.05


@pytest.mark.slow
def test_the_number_of_threads_does_not_matter():
    threads = torch.get_num_threads()
    expected = random_diffeomorphism(GRID, 0)
    try:
        torch.set_num_threads(2)
        assert torch.equal(random_diffeomorphism(GRID, 0), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("axes", mostly_slow(reversed(list(permutations(range(3))))))
def test_the_same_world_map_in_every_storage_order(axes):
    expected = random_diffeomorphism(GRID, 1)
    for flips in ((False, False, False), (True, False, True), (True, True, True)):
        stored = random_diffeomorphism(GRID.reordered(axes, flips), 1)
        torch.testing.assert_close(stored, reorder(expected, axes, flips), atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", [GRID, FLAT], ids=["3d", "2d"])
def test_without_elastic_part_it_is_rigid_about_the_center(grid):
    u = random_diffeomorphism(grid, 5, translation_mm=0, elastic_rms_mm=0)
    torch.testing.assert_close(jacobian_determinant(u, grid), torch.ones(grid.shape), atol=1e-4, rtol=0)
    points = np.moveaxis(grid.points(), -1, 0).reshape(grid.dims, -1)
    moved = u.double().numpy().reshape(grid.dims, -1) + points
    distances = [np.linalg.norm(p - grid.center[:, None], axis=0) for p in (points, moved)]
    np.testing.assert_allclose(*distances, atol=1e-4)
    assert float(u.abs().max()) > 1


def test_sizes_mean_what_they_say():
    shift = random_diffeomorphism(GRID, 0, rotation_deg=0, elastic_rms_mm=0, translation_mm=7)
    assert float(shift.abs().max()) <= 7 and float(shift.flatten(1).std(1).max()) < 1e-4
    small, large = (random_diffeomorphism(GRID, 0, 0, 0, elastic_rms_mm=r).norm(dim=0).square().mean().sqrt() for r in (1, 4))
    assert 0.5 < float(small) < 1.5 and 2 < float(large) < 6


def test_smoothing_decides_how_fast_it_varies():
    rough, smooth = (jacobian_statistics(random_diffeomorphism(GRID, 0, 0, 0, 2, s), GRID)["std_log"] for s in (10.0, 40.0))
    assert rough > 1.5 * smooth


def test_refuses_nonsense():
    with pytest.raises(ValueError, match="dimensions"):
        random_diffeomorphism(Grid((5,), np.eye(2)), 0)
    with pytest.raises(ValueError, match="negative"):
        random_diffeomorphism(GRID, 0, smoothing_mm=0)


def test_deform_moves_by_millimeters_and_keeps_the_affine():
    image = MetaTensor(torch.rand(1, *GRID.shape), affine=torch.from_numpy(GRID.affine.copy()))
    u = torch.from_numpy(GRID.affine[:3, 0].copy()).reshape(3, 1, 1, 1).expand(3, *GRID.shape)  # one voxel along axis 0
    out = deform(image, u)
    torch.testing.assert_close(out.as_tensor()[:, :-1], image.as_tensor()[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.affine, image.affine)
    labels = deform((image * 9).to(torch.uint8), u, mode="nearest")
    assert labels.dtype == torch.uint8 and set(labels.unique().tolist()) <= set(range(9))


def test_deformed_image_is_the_image_at_the_moved_points():
    ramp = torch.from_numpy(GRID.points().sum(-1))[None]
    u = random_diffeomorphism(GRID, 0, rotation_deg=2, translation_mm=1, elastic_rms_mm=1)
    image = MetaTensor(ramp, affine=torch.from_numpy(GRID.affine.copy()))
    inner = (0, *[slice(4, -4)] * 3)
    torch.testing.assert_close(deform(image, u).as_tensor()[inner], (ramp[0] + u.double().sum(0))[inner[1:]], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_mni_pair_is_two_contrasts_of_one_brain():
    pytest.importorskip("nilearn")
    from monai_locor.data.demo import mni152_pair

    t1, t2, mask = mni152_pair(6.0)
    assert t1.shape == t2.shape == mask.shape and mask.dtype == torch.uint8
    np.testing.assert_allclose(Grid.of(t1).spacing, 6)
    brain = mask.bool()
    assert float(t2[~brain].abs().max()) == 0 == float(t1[~brain].abs().max())
    assert np.corrcoef(t1[brain].numpy(), t2[brain].numpy())[0, 1] < -0.7  # reversed, yet not a mere negative
    assert torch.equal(t2, mni152_pair(6.0)[1]) and not torch.equal(t2, mni152_pair(6.0, seed=1)[1])
    with pytest.raises(ValueError, match="spacing_mm"):
        mni152_pair(0.1)
