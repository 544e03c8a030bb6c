# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Complete blockwise registrations: like a run in one block, and the same after an interruption."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from monai_locor.blockwise import register_blockwise
from monai_locor.blockwise.images import BlockImage
from monai_locor.errors import InputError
from monai_locor.geometry import reorder
from monai_locor.io.nifti import save_nifti
from monai_locor.io.ome_zarr import OmeZarrImage
from monai_locor.io.paths import STATE_FOLDER
from tests.blockwise.small import SHORT, in_this_process, interrupt, write_pair

pytest.importorskip("zarr")
pytestmark = pytest.mark.slow
SHAPE, BLOCK = (48, 44, 24), 56  # cores of 24 voxels and halos of 16


def field_of(folder):
    file = OmeZarrImage(folder / "forward_field.ome.zarr", "field")
    values = [file.read([slice(0, n) for n in file.shape], k) for k in range(3)]
    return np.stack(values) * np.array([-1, -1, 1]).reshape(3, 1, 1, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The images, the truth, and runs in one block and in several."""
    folder = tmp_path_factory.mktemp("runs")
    grid, truth = write_pair(folder, SHAPE)
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        for block in (1000, BLOCK):
            results[block] = register_blockwise(
                folder / "fixed.nii", folder / "moving.nii", folder / str(block), block=block, preset=SHORT, progress=False
            )
    return folder, grid, truth.numpy(), results


def test_several_blocks_give_the_result_of_one(runs):
    folder, grid, truth, results = runs
    one, several = (field_of(folder / str(block)) for block in (1000, BLOCK))
    assert [results[block].summary["tiles"]["count"] for block in (1000, BLOCK)] == [1, 4]
    length = np.linalg.norm(several - one, axis=0) / grid.spacing.min()
    assert np.percentile(length, 95) < 0.1
    inner = (slice(None), *[slice(6, -6)] * 3)
    error, before = (np.linalg.norm((x - truth)[inner], axis=0).mean() for x in (several, np.zeros_like(truth)))
    assert error < 0.35 * before


def test_there_are_no_seams(runs):
    """Steps of the difference from the run in one block are as small at the borders of the tiles as elsewhere."""
    folder, _, _, results = runs
    difference = field_of(folder / str(BLOCK)) - field_of(folder / "1000")
    edges_of = results[BLOCK].summary["tiles"]["edges"]
    assert [len(edges) for edges in edges_of] == [3, 3, 2]
    for axis, edges in enumerate(edges_of[:2]):
        steps = np.moveaxis(np.abs(np.diff(difference, axis=axis + 1)).max(0), axis, 0)
        at = [edge - 1 for edge in edges[1:-1]]
        rest = np.delete(steps, at, axis=0)
        assert np.percentile(steps[at], 95) < 2 * np.percentile(rest, 95) + 1e-3


def test_the_deformation_is_invertible_and_recorded(runs):
    folder, _, _, results = runs
    for block, result in results.items():
        assert result.summary["jacobian"]["folding_voxels"] == 0 and result.summary["inverse"]["mean_residual_mm"] < 0.02
        assert json.loads((folder / str(block) / "run.json").read_text())["tiles"] == result.summary["tiles"]
        assert not (folder / str(block) / STATE_FOLDER).exists()


def test_an_interrupted_run_continues_with_the_tiles_that_are_missing(runs, monkeypatch):
    folder = runs[0]
    arguments = {"fixed": folder / "fixed.nii", "moving": folder / "moving.nii", "output": folder / "resumed", "block": BLOCK}
    arguments |= {"preset": SHORT, "progress": False}
    interrupt(monkeypatch, arguments, 2)
    with pytest.raises(InputError, match="has an interrupted run"):
        register_blockwise(**arguments)
    with pytest.raises(InputError, match="state of another registration"):
        register_blockwise(**{**arguments, "seed": 1}, resume=True)
    again = []

    def counted(function, job):
        again.append((job.kind, job.number))
        return function(job)

    in_this_process(monkeypatch, counted)
    register_blockwise(**arguments, resume=True)
    assert [number for kind, number in again if kind == "tile"] == [2, 3]
    assert np.array_equal(field_of(folder / "resumed"), field_of(folder / str(BLOCK)))


def test_a_basis_and_thresholds_are_those_of_the_coarse_registration(tmp_path, monkeypatch):
    write_pair(tmp_path, (24, 20, 20), 4.0)
    in_this_process(monkeypatch)
    arguments = {"fixed": tmp_path / "fixed.nii", "moving": tmp_path / "moving.nii", "preset": SHORT, "progress": False}
    first = register_blockwise(**arguments, output=tmp_path / "a").coarse
    first.basis.save(tmp_path / "basis")
    limits = {"valid_voxels": (1e9, 1e8)}
    second = register_blockwise(**arguments, output=tmp_path / "b", initial_basis=tmp_path / "basis", thresholds=limits)
    assert second.coarse.arguments["initial_basis"]["path"] == str(tmp_path / "basis")
    losses = [each.history[0]["loss"][0] for each in (first, second.coarse)]
    assert losses[1] < losses[0] - 0.01
    assert first.verdict.status != "FAIL" and second.status == "FAIL" and second.summary["verdict"]["status"] == "FAIL"


def test_axes_that_are_restricted_are_those_of_the_file(tmp_path, monkeypatch):
    """The second axis of the file is the first one in canonical order."""
    grid, _ = write_pair(tmp_path, (32, 24, 20))
    order = (1, 0, 2), (True, False, False)
    stored = reorder(torch.from_numpy(BlockImage(tmp_path / "fixed.nii", "image").read((slice(None),) * 3))[None], *order)[0]
    save_nifti(tmp_path / "turned.nii", stored.numpy().copy(), grid.reordered(*order))
    in_this_process(monkeypatch)
    preset = dataclasses.replace(SHORT, restrict_deformation="0x1x1", affine=False, initialization="world")
    files = [tmp_path / name for name in ("turned.nii", "moving.nii", "out")]
    register_blockwise(*files, block=BLOCK, preset=preset, progress=False)
    moved = np.abs(field_of(tmp_path / "out")).max((1, 2, 3))
    assert moved[1] < 1e-4 and moved[0] > 0.5 and moved[2] > 0.5  # axis 1 of the file runs along y
