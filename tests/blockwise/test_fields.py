# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Fields and images that are computed block by block are those of the whole image."""

import numpy as np
import pytest
import torch

from monai_locor.blockwise import fields
from monai_locor.blockwise.tile import BlockJob
from monai_locor.blockwise.tiling import Tiling
from monai_locor.blockwise.velocity import CoarseVelocity, exponential_mm, lattice_of
from monai_locor.geometry import FieldStep, Grid, SpatialTransform, warp
from monai_locor.io.ome_zarr import OmeZarrImage
from tests.blockwise.small import state_of
from tests.io.test_ome_zarr import killed_after
from tests.phantoms import grid_of

pytest.importorskip("zarr")
GRID = grid_of((26, 22, 18), (-1.0, -1.0, 1.0))
AFFINE = np.array([[1.02, 0.05, 0, 0.7], [-0.04, 0.98, 0.02, -0.4], [0, 0, 1.01, 0.3], [0, 0, 0, 1]])


def smooth_state(folder):
    """A state without tiles, its whole velocity and the lattice."""
    axes, flips = GRID.canonical_order()
    lattice = lattice_of(GRID.reordered(axes, flips).snapped(), 2.0)
    sparse = Grid((6, 6, 6), lattice.affine @ np.diag([3, 3, 3, 1.0]))
    values = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 6, 6, 6)).astype(np.float32))
    velocity = CoarseVelocity(values, sparse).on(lattice)
    return state_of(folder, GRID, Tiling.of(GRID.shape, (40,) * 3, (4,) * 3), AFFINE, velocity, 2.0), velocity, lattice


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """The state, its whole velocity and all blocks, of a smooth velocity without tiles."""
    folder = tmp_path_factory.mktemp("fields")
    state, velocity, lattice = smooth_state(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_locor.io.ome_zarr.writing.CHUNK_VOXELS", {3: 8})
        patch.setattr(fields, "CHUNK_VOXELS", {3: 8})
        plan = fields.prepare_fields(state, folder, "0.4", inverse=True)
        boxes = fields.field_boxes(GRID)
        assert len(boxes) == 8
        for kind in ("forward", "inverse"):
            outcomes = [fields.compute_block(BlockJob(str(state.folder), n, kind)) for n in range(len(boxes))]
            assert not any(outcome.error for outcome in outcomes), outcomes
    return folder, exponential_mm(velocity, lattice, plan.squarings, (1.0, -1.0)), lattice, outcomes


def field_of(folder, name):
    """A field as RAS mm."""
    file = OmeZarrImage(folder / name, "field")
    values = np.stack([file.read([slice(0, n) for n in file.shape], k) for k in range(3)])
    return torch.from_numpy(values * np.array([-1, -1, 1], np.float32).reshape(3, 1, 1, 1))


def test_the_forward_field_is_that_of_the_whole_image(computed):
    folder, (forward, _), lattice, _ = computed
    moved = warp(forward, lattice, None, GRID)
    expected = SpatialTransform.of_field(moved, GRID).then(SpatialTransform.of_affine(AFFINE)).displacement(GRID)
    assert torch.allclose(field_of(folder, "forward_field.ome.zarr"), expected, atol=2e-3)


def test_the_inverse_undoes_the_forward_field(computed):
    folder, *_, outcomes = computed
    forward, back = (field_of(folder, f"{name}_field.ome.zarr") for name in ("forward", "inverse"))
    rest = SpatialTransform((FieldStep(back, GRID), FieldStep(forward, GRID))).displacement(GRID)
    inner = rest[:, 5:-5, 5:-5, 5:-5].norm(dim=0)
    assert float(inner.quantile(0.99)) < 0.05
    assert max(outcome.record["largest_residual_mm"] for outcome in outcomes) < 0.2


def test_the_warped_image_is_the_moving_image_at_the_mapped_points(computed):
    folder, *_ = computed
    moving = OmeZarrImage(folder / "warped.ome.zarr", "warped").read([slice(0, n) for n in GRID.shape])
    source = torch.from_numpy(np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32))[None]
    expected = warp(source, GRID, field_of(folder, "forward_field.ome.zarr"), GRID)
    assert np.allclose(moving, expected[0].numpy(), atol=1e-3)


def test_there_is_no_step_between_blocks(computed):
    """Second differences across the borders of blocks are as small as elsewhere."""
    field = field_of(computed[0], "forward_field.ome.zarr").numpy()
    for axis in range(3):
        bend = np.moveaxis(np.abs(np.diff(field, 2, axis=axis + 1)), axis + 1, 0)
        at = [k for k in (14, 15) if k < len(bend)]
        rest = [k for k in range(len(bend)) if k not in at]
        assert bend[at].max() <= 1.5 * bend[rest].max()


@pytest.mark.parametrize("after", [0, 2, 4, 8])
def test_a_run_that_was_killed_while_it_made_its_files_goes_on(tmp_path, after, monkeypatch):
    state, *_ = smooth_state(tmp_path)
    with monkeypatch.context() as patch:
        killed_after(patch, after)
        with pytest.raises(KeyboardInterrupt):
            fields.prepare_fields(state, tmp_path, "0.4", inverse=True)
    fields.prepare_fields(state, tmp_path, "0.4", inverse=True)
    for kind in ("forward", "inverse"):
        assert not fields.compute_block(BlockJob(str(state.folder), 0, kind)).error
