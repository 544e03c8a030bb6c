# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Label maps in a report: which belong together, their Dice, and stacks of slices that a browser can take apart."""

from __future__ import annotations

import base64
import io
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import InputError
from monai_locor.geometry import Grid, warped
from monai_locor.metrics import dice_per_label
from monai_locor.report import write_report
from monai_locor.report.html.labels import color_indices, labels_section
from monai_locor.report.html.stacks import MAX_VOXELS_PER_AXIS, columns_of, shown_grid, stack
from monai_locor.report.labels import label_overlaps

from .results import GRID, GRID_2D, aligned, result_with, shift
from .test_html import Reader

pytest.importorskip("matplotlib")


def blocks(grid: Grid, first: int = 4, numbers: tuple[int, int] = (7, 300)) -> MetaTensor:
    """Two labels side by side along the first axis."""
    labels = torch.zeros(1, *grid.shape, dtype=torch.int64)
    inner = tuple(slice(4, -4) for _ in grid.shape[1:])
    labels[(0, slice(first, first + 8), *inner)] = numbers[0]
    labels[(0, slice(first + 8, first + 16), *inner)] = numbers[1]
    return MetaTensor(labels, affine=torch.from_numpy(grid.affine))


@pytest.mark.parametrize("grid", [GRID, GRID_2D], ids=["3-D", "2-D"])
def test_dice_before_and_after(grid):
    step = float(np.abs(grid.affine[:-1, 0]).max())
    field = torch.from_numpy(grid.affine[:-1, 0] * 2).reshape(-1, *[1] * grid.dims).float().expand(-1, *grid.shape)
    result = result_with(*aligned(grid), field.contiguous())
    fixed, moving = blocks(grid, 4), blocks(grid, 6)
    (pair,) = label_overlaps(result, fixed, [moving])
    assert step > 0 and pair.after == {7: 1.0, 300: 1.0} and not pair.decreased
    assert pair.before == {label: pytest.approx(0.75) for label in (7, 300)}
    (worse,) = label_overlaps(result_with(*aligned(grid), field.contiguous()), fixed, fixed)
    assert worse.decreased and "reduced the overlap" in labels_section([worse])
    expected = dice_per_label(fixed, warped(fixed, grid, field.contiguous(), grid, "nearest"))
    assert worse.after == expected


def test_maps_on_other_grids_lie_where_the_world_says():
    result = result_with(*aligned())
    fixed = blocks(GRID)
    shifted = GRID.affine.copy()
    shifted[:3, 3] += GRID.affine[:3, :3] @ [2, 0, 0]
    cropped = MetaTensor(fixed.as_tensor()[:, 2:], affine=torch.from_numpy(shifted))
    (pair,) = label_overlaps(result, cropped, fixed)
    assert pair.after == {7: 1.0, 300: 1.0}


@pytest.mark.parametrize("kind", [lambda x: x, lambda x: x[None], torch.from_numpy], ids=["array", "channel", "tensor"])
def test_arrays_lie_on_the_voxels_of_their_image(kind):
    grid = Grid((20, 18, 16), np.diag([2.0, 2, 2, 1]) + 30 * np.eye(4, k=3))
    images = [MetaTensor(torch.rand(1, *grid.shape), affine=torch.from_numpy(grid.affine)) for _ in range(2)]
    values = blocks(Grid(grid.shape, np.eye(4)), 2)[0].numpy()
    (pair,) = label_overlaps(result_with(*images), kind(values), kind(values))
    assert pair.after == {7: 1.0, 300: 1.0} and torch.equal(pair.fixed[0], torch.from_numpy(values))


def test_which_belong_together(tmp_path):
    result, paths = result_with(*aligned()), {}
    for name in ("organs", "bones", "other", "more"):
        for role in ("fixed", "moving"):
            paths[role, name] = tmp_path / role / f"{name}.nii.gz"
            paths[role, name].parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(blocks(GRID)[0].numpy().astype(np.int16), GRID.affine), paths[role, name])

    def names(fixed: list[str], moving: list[str]) -> list[tuple[str, bool]]:
        found = label_overlaps(result, [paths["fixed", n] for n in fixed], [str(paths["moving", n]) for n in moving])
        return [(pair.name, bool(pair.after)) for pair in found]

    assert names(["organs", "bones"], ["bones", "organs"]) == [("organs.nii.gz", True), ("bones.nii.gz", True)]
    assert names(["organs", "other"], ["more", "organs"]) == [("organs.nii.gz", True), ("more.nii.gz and other.nii.gz", True)]
    assert names(["organs", "other"], ["organs"]) == [("organs.nii.gz", True), ("other.nii.gz", False)]
    assert names([], ["more"]) == [("more.nii.gz", False)] and names([], []) == []
    assert names(["organs", "organs"], ["organs"]) == [("organs.nii.gz", True), ("organs.nii.gz", False)]
    (alone,) = label_overlaps(result, (), paths["moving", "more"])
    assert "No label map of the fixed image" in labels_section([alone])


def test_what_is_refused():
    with pytest.raises(InputError, match="2-D, but the registration is 3-D"):
        label_overlaps(result_with(*aligned()), blocks(GRID_2D))
    with pytest.raises(InputError, match="whole numbers"):
        label_overlaps(result_with(*aligned()), (), aligned()[1])


def test_many_labels_are_folded_and_strange_numbers_keep_their_color():
    labels = torch.arange(-5, 395).reshape(1, 20, 20)
    labels = MetaTensor(labels, affine=torch.eye(4, dtype=torch.float64))
    images = [MetaTensor(torch.rand(1, 20, 20), affine=torch.eye(4, dtype=torch.float64)) for _ in range(2)]
    (pair,) = label_overlaps(result_with(*images), labels, labels)
    maps, palette = color_indices(pair, Grid.of(labels))
    assert len(palette) == 255 and maps["fixed"].max() == 255 and (maps["fixed"] == 0).sum() == 1
    section = labels_section([pair])
    assert "399 labels</summary>" in section and "mean</th><td>1.000</td>" in section and ">-5</th>" in section


def unpacked(uri: str, shape: tuple[int, ...]) -> np.ndarray:
    """What the script of the report makes of a stack."""
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    (width, height), columns = shape[:2], columns_of(shape)
    count = shape[2] if len(shape) > 2 else 1
    tiles = [picture[k // columns * height :, k % columns * width :][:height, :width].T for k in range(count)]
    return np.stack(tiles, -1).reshape(shape)


class TestStacks:
    @pytest.mark.parametrize("shape", [(20, 30, 8), (5, 60, 71), (1, 9, 200), (40, 50), (3, 2)])
    def test_every_slice_comes_back(self, shape):
        volume = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        np.testing.assert_array_equal(unpacked(stack(volume, exact=True), shape), volume)
        smooth = np.broadcast_to(np.linspace(0, 1, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)), shape)
        np.testing.assert_allclose(unpacked(stack(smooth), shape) / 255, smooth, atol=0.06)

    def test_large_volumes_are_averaged_and_labels_are_not(self):
        shape = (600, 4, 3)
        small = shown_grid(Grid(shape, np.diag([1.0, 2, 3, 1])))
        assert small.shape == (MAX_VOXELS_PER_AXIS, 4, 3)
        np.testing.assert_allclose(small.extent, [600, 8, 9])
        np.testing.assert_allclose(small.center, Grid(shape, np.diag([1.0, 2, 3, 1])).center)
        ramp = np.broadcast_to((np.arange(600) / 599).reshape(-1, 1, 1), shape).astype(np.float32)
        found = unpacked(stack(ramp), small.shape) / 255
        np.testing.assert_allclose(
            found, np.broadcast_to(np.linspace(0, 1, MAX_VOXELS_PER_AXIS).reshape(-1, 1, 1), small.shape), atol=0.03
        )
        labels = (np.arange(600) % 2 * 200).astype(np.uint8).reshape(-1, 1, 1).repeat(4, 1).repeat(3, 2)
        assert set(np.unique(unpacked(stack(labels, exact=True), small.shape))) <= {0, 200}

    def test_the_page_says_whether_all_voxels_are_shown(self, tmp_path):
        for grid, told in ((GRID_2D, "All 96×90 voxels"), (Grid((300, 40), np.eye(3)), "256×40 voxels are shown, averages of")):
            images = [MetaTensor(torch.rand(1, *grid.shape), affine=torch.from_numpy(grid.affine)) for _ in range(2)]
            page = write_report(tmp_path / "a.html", result_with(*images), residuals=False).read_text(encoding="utf-8")
            assert told in Reader(page).text

    def test_the_script_is_told_where_slices_lie(self, tmp_path):
        tall = Grid((20, 18, 600), np.array([[0, 0, 0.5, -7], [2.0, 0, 0, 3], [0, -1.5, 0, 9], [0, 0, 0, 1]]))
        images = [MetaTensor(torch.rand(1, *tall.shape), affine=torch.from_numpy(tall.affine)) for _ in range(2)]
        page = write_report(tmp_path / "a.html", result_with(*images), residuals=False).read_text(encoding="utf-8")
        (viewer,) = (a for a in Reader(page).all("div") if a.get("id") == "viewer")
        data = json.loads(viewer["data-volumes"])
        assert data["shape"] == [256, 20, 18]  # R, A, S
        factor = 600 / 256
        assert data["axes"][0] == pytest.approx([-7 + 0.5 * (factor - 1) / 2, 0.5 * factor], abs=1e-3)
        assert data["axes"][1] == [3, 2] and data["axes"][2] == pytest.approx([9 - 1.5 * 17, 1.5])


def test_labels_in_a_page(tmp_path):
    result = result_with(*aligned(), shift(GRID, 0, 2.0, 0))
    labels = {"fixed_labels": blocks(GRID), "moving_labels": blocks(GRID, 6)}
    read = Reader(write_report(tmp_path / "a.html", result, residuals=False, **labels).read_text(encoding="utf-8"))
    stacks = {a["data-name"]: a for a in read.all("img", **{"class": "stack"})}
    assert {"labels-0-fixed", "labels-0-warped"} <= stacks.keys()
    assert len(json.loads(stacks["labels-0-fixed"]["data-colors"])) == 2
    assert {a["value"] for a in read.all("option")} >= {"", "0"} and "Dice overlap" in read.text
    shown = unpacked(stacks["labels-0-fixed"]["src"], GRID.reordered(*GRID.canonical_order()).shape)
    assert sorted(np.unique(shown)) == [0, 1, 2]
