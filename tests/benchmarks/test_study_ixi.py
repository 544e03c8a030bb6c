# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""IXI PD-T2: the random deformation of the paper, pairs made by it, their score, folders as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from studies import IXI, t2_pd_deformation, t2_pd_pair
from studies.deformation import _smooth_noise

from monai_locor.data.study_case import read_case, write_case
from monai_locor.geometry import Grid
from monai_locor.metrics import jacobian_determinant

from .study_folders import refusal, save

ndimage = pytest.importorskip("scipy.ndimage")
linalg = pytest.importorskip("scipy.linalg")
SHAPE = (22, 18, 14)
AFFINE = np.array([[0, -9.0, 0.5, 60], [8.0, 0, 0, -80], [0, 0.4, 12.0, -70], [0, 0, 0, 1]])  # large voxels: small margins
GRID = Grid(SHAPE, AFFINE)
SMALL = Grid((12, 10, 8), np.array([[0, -1.5, 0.1, 6], [1.5, 0, 0, -8], [0, 0.1, 2.0, -7], [0, 0, 0, 1]]))
FLAT = Grid((60, 50), np.array([[4.0, 0.5, -20], [-0.5, 4.0, 3], [0, 0, 1]]))


def slow_deformation(grid: Grid, seed) -> np.ndarray:
    """The protocol, with SciPy: ``(*S, D)`` mm."""
    rng = np.random.default_rng(seed)
    strength, sigma = rng.uniform(700, 900), rng.uniform(14, 16) / grid.spacing
    x, y, z = rng.uniform(-np.pi / 8, np.pi / 8, 3)
    shift = rng.uniform(-30, 30, 3)
    velocity = []
    for _ in range(3):
        margin = [int(np.ceil(4 * s)) for s in sigma]
        noise = rng.normal(0, strength, [n + 2 * m for n, m in zip(grid.shape, margin)])
        for axis, (s, m) in enumerate(zip(sigma, margin)):
            weights = np.exp(-((np.arange(-m, m + 1) / s) ** 2) / 2)
            noise = ndimage.convolve1d(noise, weights / weights.sum(), axis)
        velocity.append(noise[tuple(slice(m, -m) for m in margin)])
    identity = np.indices(grid.shape).astype(float)
    moved = identity + np.array(velocity) / 2**6
    for _ in range(6):
        u = moved - identity
        moved = moved + np.stack([ndimage.map_coordinates(c, moved, order=1, mode="nearest") for c in u])
    world = np.moveaxis(moved, 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    rotation = linalg.expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
    return (world - grid.center) @ rotation.T + grid.center + shift - grid.points()


def body(points: np.ndarray) -> np.ndarray:
    """A bright, uneven ellipsoid in darkness."""
    radius = np.linalg.norm((points - GRID.center) / [50, 60, 60], axis=-1)
    return np.where(radius < 1, 100 + 20 * np.sin(points[..., 0] / 15) + points[..., 1] / 4, 1)


def image(values: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values).float()[None], affine=torch.from_numpy(AFFINE))


def scan() -> tuple[MetaTensor, MetaTensor]:
    pd = body(GRID.points())
    return image(pd), image(200 - pd)


def rms_of_elastic_part(displacement: torch.Tensor, grid: Grid) -> float:
    """What no affine map explains, mm."""
    points = grid.points().reshape(-1, grid.dims)
    u = displacement.double().reshape(grid.dims, -1).T.numpy()
    basis = np.column_stack([points, np.ones(len(points))])
    rest = u - basis @ np.linalg.lstsq(basis, u, rcond=None)[0]
    return float(np.sqrt((rest**2).mean()))


def test_splits_are_the_paper_s():
    assert len(IXI.splits["validation"]) == 3 and len(IXI.splits["test"]) == 49
    assert len(set(sum(IXI.splits.values(), ()))) == 52 and "IXI508-HH-2268" in IXI.splits["test"]


@pytest.mark.parametrize("seed", [0, (42, 161)])
def test_deformation_equals_a_slow_one(seed):
    found, expected = t2_pd_deformation(SMALL, seed), slow_deformation(SMALL, seed)
    np.testing.assert_allclose(found.movedim(0, -1).numpy(), expected, atol=1e-3)
    assert np.linalg.norm(expected, axis=-1).max() > 10 and found.dtype == torch.float32


def test_seeds_and_smoothness():
    first = t2_pd_deformation(FLAT, 3)
    assert first.shape == (2, *FLAT.shape) and torch.equal(first, t2_pd_deformation(FLAT, 3))
    assert not torch.equal(first, t2_pd_deformation(FLAT, 4))
    for seed in range(3):
        assert float(jacobian_determinant(t2_pd_deformation(FLAT, seed, (1, 1)), FLAT).min()) > 0
    with pytest.raises(ValueError, match="2 or 3"):
        t2_pd_deformation(Grid((5,), np.eye(2)), 0)


def test_strength_is_that_of_the_voxels_it_is_meant_for():
    """In the mean over seeds, coarser voxels only move more where the protocol is followed to the letter."""
    fine, coarse = (Grid((n, n), np.diag([mm, mm, 1.0])) for n, mm in ((64, 3.0), (32, 6.0)))
    sizes = [
        np.mean([rms_of_elastic_part(t2_pd_deformation(grid, seed, voxel), grid) for seed in range(12)])
        for grid, voxel in ((fine, (1, 1)), (coarse, (1, 1)), (coarse, None), (coarse, (6, 6)))
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.25) and sizes[2] == sizes[3] > 10 * sizes[1]


def test_noise_is_as_strong_as_theory_says_and_does_not_fade_at_the_border():
    def expected(strength: float, sigma: np.ndarray) -> float:
        return strength / np.sqrt(np.prod(2 * np.sqrt(np.pi) * sigma))

    assert 1.8 < expected(800, 15 / np.array([0.9375, 0.9375, 1.25])) < 2.4  # voxels of IXI
    sigma = np.array([2.0, 3.0, 2.0])
    noise = _smooth_noise(Grid((40, 40, 40), np.eye(4)), 100.0, sigma, np.random.default_rng(0))
    assert float(noise.std()) == pytest.approx(expected(100, sigma), rel=0.1)
    assert 0.7 < float(noise[:, :3].std() / noise[:, 18:21].std()) < 1.4


def test_a_pair_has_a_known_answer():
    pd, t2 = scan()
    case = t2_pd_pair(pd, t2, 5, name="a", voxel_mm=(1, 1, 1))
    where = GRID.points() + case.truth.movedim(0, -1).double().numpy()
    index = np.moveaxis((where - AFFINE[:3, 3]) @ np.linalg.inv(AFFINE[:3, :3]).T, -1, 0)
    inside = np.all([(i > -1e-6) & (i < n - 1 + 1e-6) for i, n in zip(index, SHAPE)], axis=0)
    assert np.array_equal(case.fixed_mask[0].numpy() > 0, inside) and 0.1 < inside.mean() < 1
    expected = ndimage.map_coordinates(pd[0].numpy(), index, order=1, mode="grid-constant")
    np.testing.assert_allclose(case.fixed[0].numpy(), expected, atol=0.05)
    assert torch.equal(case.moving, t2) and case.moving_mask is None
    inner = np.linalg.norm((where - GRID.center) / [50, 60, 60], axis=-1) < 0.8
    mask = case.evaluation_mask[0].numpy() > 0
    assert mask[inner & inside].all() and not mask[~inside].any()
    exact, nothing = IXI.score(case, case.truth), IXI.score(case, None)
    assert exact["error_vox"] == exact["score"] == exact["error_mm"] == 0
    u = np.linalg.inv(AFFINE[:3, :3]) @ case.truth.double().numpy().reshape(3, -1)
    assert nothing["error_vox"] == pytest.approx(np.linalg.norm(u, axis=0)[mask.ravel()].mean())
    assert nothing["error_mm"] == pytest.approx(case.truth.double().norm(dim=0)[torch.from_numpy(mask)].mean().item())


def test_the_score_is_capped():
    case = t2_pd_pair(*scan(), 5, voxel_mm=(1, 1, 1))
    off = torch.from_numpy(AFFINE[:3, 0] * 2).float().reshape(3, 1, 1, 1)
    found = IXI.score(case, case.truth + off)
    assert found["error_vox"] == pytest.approx(2, rel=1e-4) and found["score"] == found["error_vox"]
    found = IXI.score(case, case.truth + 2 * off)
    assert found["error_vox"] == pytest.approx(4, rel=1e-4) and found["score"] == found["error_capped_vox"] == 3


@pytest.mark.parametrize("layout", ["{name}-{part}.nii.gz", "IXI-{part}/{name}-{part}.nii.gz", "{part}/{name}-{part}.nii.gz"])
def test_folders(tmp_path, layout):
    name = "IXI161-HH-2533"
    for part, values in zip(("PD", "T2"), scan()):
        save(tmp_path / layout.format(name=name, part=part), values[0].numpy(), AFFINE)
    case = IXI(tmp_path).load(name)
    assert torch.allclose(case.truth, t2_pd_deformation(GRID, (42, 161))) and case.name == name
    if layout.startswith("{name}"):
        again = read_case(write_case(tmp_path / "case", case))
        torch.testing.assert_close(again.truth, case.truth, atol=1e-4, rtol=1e-5)
        assert IXI.score(again, None) == pytest.approx(IXI.score(case, None), rel=1e-4)
        assert again.about == {"seed": [42, 161]}


def test_errors_name_the_file_and_the_remedy(tmp_path):
    pd, t2 = scan()
    assert "no such folder" in refusal(IXI, tmp_path / "none")
    message = refusal(IXI(tmp_path).load, "IXI161-HH-2533")
    assert "IXI161-HH-2533-PD.nii.gz is missing (and 1 more)" in message and "brain-development.org" in message
    assert "has no case 'IXI001'" in refusal(IXI(tmp_path).load, "IXI001")
    assert "do not lie on one grid" in refusal(t2_pd_pair, pd, t2[:, 1:])
    moved = MetaTensor(t2.as_tensor(), affine=t2.affine + torch.eye(4).double())
    assert "do not lie on one grid" in refusal(t2_pd_pair, pd, moved)


@pytest.mark.slow
def test_real_contrasts(shared, tmp_path):
    """The averages of 152 heads, as if they were a subject."""
    import nibabel as nib

    name = "IXI077-Guys-0752"
    for part in ("PD", "T2"):
        stored = nib.load(Path(shared) / "data" / f"avg152{part}_2mm.nii.gz")
        save(tmp_path / f"IXI-{part}" / f"{name}-{part}.nii.gz", stored.get_fdata(), stored.affine)
    case = IXI(tmp_path).load(name)
    mask = case.evaluation_mask.as_tensor() > 0
    assert 0.1 < mask.float().mean() < 0.9 and IXI.score(case, None)["error_vox"] > 3
    assert float(case.fixed.as_tensor()[mask].mean()) > 3 * float(case.fixed.as_tensor()[~mask].mean())
