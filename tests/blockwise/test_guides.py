# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmarks and labels in blocks: like in one block, and the same after an interruption."""

import dataclasses
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_locor.blockwise import register_blockwise
from monai_locor.blockwise.guides import BlockGuides
from monai_locor.blockwise.tiling import Tiling, extent
from monai_locor.errors import InputError
from monai_locor.geometry import SpatialTransform, apply_affine
from monai_locor.io.paths import STATE_FOLDER, locked_folder
from monai_locor.io.transforms.zarr_fields import read_zarr_field
from monai_locor.registration.label_term import LabelTerm
from monai_locor.registration.labels import Labels
from monai_locor.registration.landmark_term import LandmarkTerm
from monai_locor.registration.landmarks import Landmarks
from monai_locor.registration.mapped_points import PointMapper
from tests.blockwise.small import SHORT, in_this_process, interrupt, write_pair
from tests.phantoms import grid_of, image

BLOCK = 56  # cores of 24 voxels and halos of 16
PLANE = grid_of((40, 36), (1.5, -2.0), turn=0.3)
MATRIX = torch.tensor([[1.05, 0.1, 3.0], [0.0, 0.9, -2.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def balls(grid, centers, radii=(14.0, 9.0)) -> np.ndarray:
    """Label maps of balls around world points."""
    out, points = np.zeros(grid.shape, np.int16), grid.points()
    for number, (center, radius) in enumerate(zip(centers, radii, strict=True), 1):
        out[((points - center) ** 2).sum(-1) < radius**2] = number
    return out


def some_points(grid, count: int, seed: int = 0) -> torch.Tensor:
    voxels = 6 + np.random.default_rng(seed).random((count, grid.dims)) * (np.array(grid.shape) - 12)
    return torch.from_numpy(apply_affine(grid.affine, voxels))


@pytest.fixture
def guides() -> BlockGuides:
    """Landmarks and labels in a plane; the coarse inverse shifts by 4 mm along x."""
    maps = [image(balls(PLANE, np.array([[0.0, 0], [12, -9]]) + shift), PLANE) for shift in (0, 3)]
    landmarks = Landmarks.of((some_points(PLANE, 30), some_points(PLANE, 30, 1), np.arange(30)))
    shift = torch.tensor([4.0, 0.0]).view(2, 1, 1).expand(2, *PLANE.shape)
    coarse = SimpleNamespace(inverse_mm=shift, moving_grid=PLANE)
    return BlockGuides.of(landmarks, Labels.of(maps, PLANE, PLANE), coarse)


def parts(guides: BlockGuides, halo: int) -> list:
    """Landmarks and labels of each of twelve tiles."""
    tiling, to_voxels = Tiling.of(PLANE.shape, (14, 9), (halo, halo)), np.linalg.inv(PLANE.affine)
    assert len(tiling) == 12
    return [guides.of_tile(*extent(tiling.box(n), PLANE.shape), to_voxels, 2.0) for n in tiling]


def test_terms_of_tiles_without_halo_add_up_to_that_of_the_image(guides):
    found = parts(guides, 0)
    for name, make in (("landmarks", LandmarkTerm), ("labels", LabelTerm)):
        whole = make(getattr(guides, name), 0.7, 2.5, PointMapper(PLANE, None))
        tiles = [make(part[name], 0.7, 2.5, PointMapper(PLANE, None)) for part in found]
        for k in (0, 1):
            values = [float(tile(k, MATRIX, None)) for tile in tiles]
            assert sum(values) == pytest.approx(2.0 * float(whole(k, MATRIX, None)), rel=1e-12)
            assert max(values) < sum(values)


def test_a_point_is_in_each_tile_whose_halo_contains_it(guides):
    landmarks = guides.landmarks
    to_voxels, places = np.linalg.inv(PLANE.affine), (landmarks.fixed, landmarks.moving + torch.tensor([4.0, 0]))
    voxels = [apply_affine(to_voxels, place.numpy()) for place in places]
    tiling = Tiling.of(PLANE.shape, (14, 9), (5, 5))
    found = [part["landmarks"].shares for part in parts(guides, 5)]
    for n in tiling:
        for k in (0, 1):
            nearest = voxels[k].round().clip(0, np.array(PLANE.shape) - 1)
            inside = np.all(
                [(nearest[:, a] >= b.start) & (nearest[:, a] < b.stop) for a, b in enumerate(tiling.box(n))], axis=0
            )
            assert np.array_equal(found[n][k].numpy(), 2.0 * inside)


def test_points_beyond_the_image_belong_to_its_outermost_tiles(guides):
    beyond = guides.landmarks.fixed * 20
    far = dataclasses.replace(guides, landmark_places=(beyond, beyond))
    counts = torch.stack([part["landmarks"].shares[0] for part in parts(far, 0)]).count_nonzero(0)
    assert counts.tolist() == [1] * 30


def test_what_is_stored_is_what_is_read(guides, tmp_path):
    np.savez(tmp_path / "guides.npz", **guides.arrays())
    with np.load(tmp_path / "guides.npz", allow_pickle=False) as file:
        found = BlockGuides.of_arrays(file)
    assert found.numbers == guides.numbers > 0
    for one, other in zip(parts(found, 5), parts(guides, 5), strict=True):
        for name, make in (("landmarks", LandmarkTerm), ("labels", LabelTerm)):
            values = [float(make(part[name], 0.7, 2.5, PointMapper(PLANE, None))(1, MATRIX, None)) for part in (one, other)]
            assert values[0] == values[1]
    none = BlockGuides.of_arrays(BlockGuides().arrays())
    assert none.landmarks is None and none.labels is None and parts(none, 5) == [{}] * 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Arguments with landmarks and labels that contradict the images by some mm, and runs in one block and in several."""
    pytest.importorskip("zarr")
    folder = tmp_path_factory.mktemp("guided")
    grid, truth = write_pair(folder)
    forward = SpatialTransform.of_field(truth, grid)
    fixed = some_points(grid, 12)
    moving = forward.points(fixed) + torch.from_numpy(np.random.default_rng(1).normal(0, 2.5, fixed.shape))
    centers = apply_affine(grid.affine, np.array([[23.0, 20, 20], [14, 30, 25]]))
    moved = forward.points(torch.from_numpy(centers)).numpy() + [[2, 0, 1], [-1, 2, 0]]
    arguments = {"fixed": folder / "fixed.nii", "moving": folder / "moving.nii", "progress": False}
    arguments |= {"preset": dataclasses.replace(SHORT, label_weight=1.0), "landmarks": (fixed, moving)}
    arguments["labels"] = tuple(image(balls(grid, where), grid) for where in (centers, moved))
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        for block in (1000, BLOCK):
            results[block] = register_blockwise(**arguments, output=folder / str(block), block=block)
    return folder, grid, arguments, results


def field_of(folder):
    return read_zarr_field(folder / "forward_field.ome.zarr", "field").steps[0].array


@pytest.mark.slow
def test_several_blocks_give_the_result_of_one(runs):
    folder, grid, _, results = runs
    assert [results[block].summary["tiles"]["count"] for block in (1000, BLOCK)] == [1, 8]
    difference = (field_of(folder / str(BLOCK)) - field_of(folder / "1000")) / grid.spacing.min()
    assert np.percentile(np.linalg.norm(difference, axis=0), 95) < 0.1
    for axis, edges in enumerate(results[BLOCK].summary["tiles"]["edges"]):  # no seams
        steps = np.moveaxis(np.abs(np.diff(difference, axis=axis + 1)).max(0), axis, 0)
        at = [edge - 1 for edge in edges[1:-1]]
        assert np.percentile(steps[at], 95) < 2 * np.percentile(np.delete(steps, at, axis=0), 95) + 1e-3


@pytest.mark.slow
def test_the_tiles_follow_what_the_coarse_registration_leaves(runs):
    for result in runs[3].values():
        fine, coarse = result.summary, result.coarse
        assert fine["landmarks_mm"]["after"]["mean"] < 0.6 * coarse.landmarks_mm["after"]["mean"]
        assert fine["label_dice"]["after"]["mean"] > fine["label_dice"]["before"]["mean"] + 0.04
        assert fine["jacobian"]["folding_voxels"] == 0


@pytest.mark.slow
def test_landmarks_and_labels_are_recorded(runs):
    folder, _, arguments, results = runs
    written = json.loads((folder / str(BLOCK) / "run.json").read_text())
    assert written["landmarks_mm"] == results[BLOCK].summary["landmarks_mm"]
    assert written["coarse"]["arguments"]["landmarks"] == Landmarks.of(arguments["landmarks"]).described()
    assert set(written["coarse"]["arguments"]["labels"]) == {"fixed", "moving", "weights"}
    whole = read_zarr_field(folder / str(BLOCK) / "forward_field.ome.zarr", "field")
    expected = Landmarks.of(arguments["landmarks"]).distances_of(whole.points(arguments["landmarks"][0]))
    assert written["landmarks_mm"]["after"] == expected and written["landmarks_mm"]["count"] == 12
    assert written["landmarks_mm"]["before"] == results[BLOCK].coarse.landmarks_mm["before"]


@pytest.mark.slow
def test_an_interrupted_run_continues(runs, monkeypatch):
    folder, _, arguments, _ = runs
    arguments = {**arguments, "output": folder / "resumed", "block": BLOCK}
    interrupt(monkeypatch, arguments, 3)
    fixed, moving = arguments["landmarks"]
    with pytest.raises(InputError, match=r"state of another registration \(moving \["):
        register_blockwise(**{**arguments, "landmarks": (fixed, moving + 1)}, resume=True)
    in_this_process(monkeypatch)
    register_blockwise(**arguments, resume=True)
    assert np.array_equal(field_of(folder / "resumed"), field_of(folder / str(BLOCK)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"landmarks": ([[0.0, 0, 0]], [[0.0, 0, 900]])}, "landmark 1 of the moving points"),
        ({"labels": ("a.nii",)}, r"labels: give \(fixed labels, moving labels\)"),
        *(({"workers": number}, "workers must be a whole number, 1 or more") for number in (0, -1, 1.5, True, "2")),
    ],
)
def test_refused_before_the_registration(tmp_path, given, message):
    pytest.importorskip("zarr")
    write_pair(tmp_path, (12, 12, 12))
    with pytest.raises(InputError, match=message):
        register_blockwise(tmp_path / "fixed.nii", tmp_path / "moving.nii", tmp_path / "out", progress=False, **given)


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked")
@pytest.mark.parametrize("given", [{}, {"resume": True}, {"force": True}], ids=str)
def test_two_runs_do_not_share_a_folder(tmp_path, given):
    pytest.importorskip("zarr")
    write_pair(tmp_path, (12, 12, 12))
    kept = tmp_path / "out" / STATE_FOLDER / "plan.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("of the other run")
    with locked_folder(tmp_path / "out"), pytest.raises(InputError, match="another run is working in it"):
        register_blockwise(tmp_path / "fixed.nii", tmp_path / "moving.nii", tmp_path / "out", progress=False, **given)
    assert kept.read_text() == "of the other run"
