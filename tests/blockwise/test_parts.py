# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parts of images and fields agree with the whole ones."""

import dataclasses

import numpy as np
import pytest
import torch

from monai_locor.blockwise.canonical import CanonicalImage, mask_weights
from monai_locor.blockwise.checks import check_folder, check_settings
from monai_locor.blockwise.coarse import coarse_factor, fine_stages
from monai_locor.blockwise.images import BlockImage, block_means
from monai_locor.blockwise.tile import _weighted
from monai_locor.blockwise.tile_size import halo_of, tile_side, tiling_of
from monai_locor.blockwise.tiling import Tiling
from monai_locor.blockwise.velocity import CoarseVelocity, box_around, exponential_mm, lattice_of, smooth_matrix
from monai_locor.errors import InputError
from monai_locor.geometry import Grid, cubic_bspline, reorder
from monai_locor.io.nifti import save_nifti
from monai_locor.io.paths import STATE_FOLDER
from monai_locor.losses.intensity import robust_range
from monai_locor.networks.velocity import SplineVelocity
from monai_locor.registration import RegistrationConfig, Stage
from monai_locor.registration.start.prepare import prepare
from tests.blockwise.small import state_of
from tests.phantoms import grid_of, image, turned

OBLIQUE = turned(0.4, (2.0, -1.5, 1.0), (12, 10, 9))


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(12, 10, 9), (12, 10, 9, 3), (12, 10)])
def test_boxes_of_a_nifti_file(tmp_path, shape):
    values = noise(shape)
    save_nifti(tmp_path / "a.nii", values, Grid(shape[:3], np.eye(len(shape[:3]) + 1)))
    found = BlockImage(tmp_path / "a.nii", "image", 1 if len(shape) == 4 else None)
    box = tuple(slice(2, n - 1) for n in shape[:3])
    assert found.grid.shape == shape[:3] and found.dtype == np.float32
    assert np.array_equal(found.read(box), (values[..., 1] if len(shape) == 4 else values)[box])


def test_files_of_which_no_part_can_be_read_are_refused(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", noise((4, 4, 4)), Grid((4, 4, 4), np.eye(4)))
    save_nifti(tmp_path / "b.nii", noise((4, 4, 4, 2)), Grid((4, 4, 4), np.eye(4)))
    with pytest.raises(InputError, match=r"give OME-Zarr or an uncompressed NIfTI file"):
        BlockImage(tmp_path / "a.nii.gz", "fixed image")
    with pytest.raises(InputError, match="2 channels or frames"):
        BlockImage(tmp_path / "b.nii", "fixed image")
    with pytest.raises(InputError, match="no such file"):
        BlockImage(tmp_path / "c.nii", "fixed image")


def test_block_means_stay_in_place(tmp_path, monkeypatch):
    """The mean of a linear function over a block is its value at the center of the block."""
    monkeypatch.setattr("monai_locor.blockwise.images.BOX_VOXELS", {3: 4})
    direction = np.array([1.0, -2.0, 0.5])
    save_nifti(tmp_path / "a.nii", (OBLIQUE.points() @ direction).astype(np.float32), OBLIQUE)
    means, grid, lowest = block_means(BlockImage(tmp_path / "a.nii", "image"), (3, 2, 4))
    inner = (slice(None), slice(None), slice(0, 2))  # the last block along z has one voxel
    assert means.shape == grid.shape == (4, 5, 3)
    assert np.allclose(means[inner], (grid.points() @ direction)[inner], atol=1e-4)
    assert lowest == pytest.approx((OBLIQUE.points() @ direction).min(), abs=1e-4)


@pytest.mark.parametrize("value", [True, 1, 255, 3.0])
def test_masks_count_the_same_in_all_types(tmp_path, value):
    """Averaged for the coarse result and read in parts for the tiles: 255 or the number of a label is no larger weight."""
    inside = np.zeros(OBLIQUE.shape, bool)
    inside[3:8, 2:7, 4:] = True
    stored = (inside * value).astype(np.uint8 if isinstance(value, int) else np.float32)
    save_nifti(tmp_path / "m.nii", stored, OBLIQUE)
    mask = BlockImage(tmp_path / "m.nii", "mask")
    means, _, _ = block_means(mask, (2, 2, 2), is_mask=True)
    assert means[1, 1, 2] == pytest.approx(0.5) and means.max() == 1 and means[0].max() == 0
    whole = mask_weights(mask, OBLIQUE.snapped())
    assert torch.equal(whole[0] > 0.5, torch.from_numpy(inside))


@pytest.mark.parametrize("grid", [OBLIQUE, grid_of((12, 10, 9), (-1, 2, -3)), grid_of((12, 10), (2.0, -1.0))])
def test_prepared_parts_are_parts_of_the_prepared_image(tmp_path, grid):
    values = noise(grid.shape)
    save_nifti(tmp_path / "a.nii", values, grid)
    whole = prepare(image(values, grid), None, 0.01, torch.device("cpu"))
    low, high = robust_range(torch.from_numpy(values)[None, None], None, 0.01)
    source = CanonicalImage(BlockImage(tmp_path / "a.nii", "image"), (float(low), float(high)))
    box = tuple(slice(1, n - 2) for n in source.grid.shape)
    part = source.prepared(box, torch.device("cpu"))
    assert torch.allclose(part.image, whole.image[(slice(None), *box)], atol=1e-6)
    assert np.allclose(part.grid.affine, whole.grid.cropped(box).affine, atol=1e-5)
    assert torch.equal(
        reorder(torch.from_numpy(source.image.read(source.stored_box(box)).copy())[None], source.axes, source.flips),
        reorder(torch.from_numpy(values)[None], source.axes, source.flips)[(slice(None), *box)],
    )


def test_voxels_that_are_not_finite_or_outside_of_the_mask_do_not_count(tmp_path):
    grid = grid_of((8, 8, 8))
    values, inside = noise(grid.shape), np.zeros(grid.shape, np.uint8)
    values[2, 3, 4], inside[:6] = np.nan, 3
    for name, data in (("a.nii", values), ("mask.nii", inside)):
        save_nifti(tmp_path / name, data, grid)
    mask = BlockImage(tmp_path / "mask.nii", "mask")
    part = CanonicalImage(BlockImage(tmp_path / "a.nii", "image"), (0.0, 1.0), mask).prepared(
        (slice(0, 8),) * 3, torch.device("cpu")
    )
    expected = torch.from_numpy(inside > 0)[None].float()
    expected[0, 2, 3, 4] = 0
    assert torch.equal(part.weight, expected) and bool(part.image.isfinite().all())
    assert float(mask_weights(mask, grid.cropped((slice(6, 8), slice(0, 8), slice(0, 8)))).sum()) == 0


def test_the_lattice_is_that_of_the_engine():
    for grid in (grid_of((20, 17, 9), (1.0, 1.5, 2.0)), grid_of((40, 30), (1.0, 1.0))):
        own = SplineVelocity(grid, 4.0, 2.0, 4.0)
        assert lattice_of(grid, 2.0).shape == own.shape
        assert np.allclose(lattice_of(grid, 2.0).affine, own.lattice.affine)


def test_smooth_interpolation_reproduces_splines_and_constants():
    """The nodes of the spline are every second sample; it differs near the ends, where samples are mirrored."""
    nodes, where = np.arange(-2, 20), np.linspace(8, 24, 41)
    values = noise(22)
    samples, expected = (cubic_bspline(x[:, None] / 2 - nodes) @ values for x in (np.arange(33.0), where))
    assert np.allclose(smooth_matrix(where, 33) @ samples, expected, atol=1e-3)
    assert np.allclose(smooth_matrix(np.linspace(-3, 15, 50), 13).sum(1), 1)
    assert np.allclose(smooth_matrix(np.arange(13.0), 13), np.eye(13), atol=1e-9)


def test_the_exponential_of_a_part_is_the_part_of_the_exponential():
    lattice = Grid((22, 20, 18), OBLIQUE.affine)
    sparse = Grid((6, 6, 6), OBLIQUE.affine @ np.diag([4, 4, 4, 1.0]))
    velocity = CoarseVelocity(torch.from_numpy(2 * noise((3, 6, 6, 6))), sparse).on(lattice)
    whole, back = exponential_mm(velocity, lattice, 4, (1.0, -1.0))
    voxels = np.linalg.inv(lattice.affine[:3, :3]) @ velocity.numpy().reshape(3, -1)
    margin = int(np.ceil(np.abs(voxels).max() * 3**0.5)) + 2
    points = lattice.cropped((slice(9, 12),) * 3).corners()
    box = box_around(lattice, points, margin)
    inner = tuple(slice(9 - b.start, 12 - b.start) for b in box)
    part = exponential_mm(velocity[(slice(None), *box)], lattice.cropped(box), 4, (1.0, -1.0))
    for found, expected in zip(part, (whole, back), strict=True):
        assert torch.allclose(found[(slice(None), *inner)], expected[:, 9:12, 9:12, 9:12], atol=1e-4)


def test_tiles_that_agree_are_blended_into_the_same_velocity(tmp_path):
    grid = grid_of((20, 18, 14), (1.0, 1.0, 1.5))
    tiling, lattice = Tiling.of(grid.shape, (8, 8, 8), (4, 4, 4)), lattice_of(grid, 2.0)
    state = state_of(tmp_path, grid, tiling, np.eye(4), torch.zeros(3, *lattice.shape), 2.0)
    added = torch.from_numpy(noise((3, *lattice.shape)))
    for number in tiling:
        state.save_tile(number, _weighted(state, number, added, lattice), {"state": "registered"})
    for box in ((slice(0, lattice.shape[0]), slice(3, 9), slice(2, 3)), tuple(slice(0, n) for n in lattice.shape)):
        assert torch.allclose(state.velocity(box), added[(slice(None), *box)], atol=1e-5)


def test_the_fine_stages_end_at_the_voxels():
    assert fine_stages(Stage(1, 5, 4), 8) == (Stage(4, 5, 16), Stage(2, 5, 8), Stage(1, 5, 4))
    assert coarse_factor(Grid((64, 64, 64), np.eye(4)), 2) == 2
    assert [coarse_factor(Grid((n, n, n), np.eye(4)), 1) for n in (160, 162, 512, 1000)] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": "affine"}, "transform 'affine': in blocks only 'deformable'"),
        ({"missing": "auto"}, "missing 'auto'"),
        ({"composition": "stages"}, "composition 'stages'"),
        ({"stages": (Stage(2, 5),)}, "the last one has no deformation"),
    ],
)
def test_settings_that_blocks_cannot_continue_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        check_settings(RegistrationConfig(**changes))


def test_results_of_another_run_are_not_overwritten(tmp_path):
    (tmp_path / "warped.ome.zarr").mkdir()
    with pytest.raises(InputError, match=r"already has warped.ome.zarr; name another, or add --force"):
        check_folder(tmp_path)
    (tmp_path / STATE_FOLDER).mkdir()
    with pytest.raises(InputError, match="has an interrupted run; add --resume"):
        check_folder(tmp_path)
    check_folder(tmp_path, resume=True)
    check_folder(tmp_path, resume=True, force=True)
    assert (tmp_path / STATE_FOLDER).is_dir()  # of hours, perhaps
    (tmp_path / "other.txt").write_text("kept")
    (tmp_path / "state").mkdir()
    for name in ("error.nii.gz", "forward_field.nii.gz"):  # of a registration without blocks
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"warped.ome.zarr: of an earlier run, is also an input"):
        check_folder(tmp_path, force=True, inputs=[None, tmp_path / "warped.ome.zarr" / "0"])
    check_folder(tmp_path, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.txt", "state"]


def test_the_tiles_fit_the_memory_that_is_allowed():
    grid, stages = Grid((1000, 900, 800), np.diag([0.002, 0.002, 0.002, 1])), (Stage(2, 5, 8), Stage(1, 5, 4))
    config = RegistrationConfig(stages=stages)
    limits = ["300MiB", "1GiB", "4GiB", None]
    sides = [tile_side(grid, dataclasses.replace(config, memory=limit)) for limit in limits]
    assert sides[0] < sides[1] < sides[2] and sides[3] == 176
    assert halo_of(grid, config) == [24, 24, 24]
    assert len(tiling_of(grid, "auto", config)) == 8 * 8 * 7
    with pytest.raises(InputError, match="raise the limit"):
        tile_side(grid, dataclasses.replace(config, memory="10MiB"))
    with pytest.raises(InputError, match="the halo takes 24 voxels on each side; give 64 or more"):
        tiling_of(grid, 50, config)
