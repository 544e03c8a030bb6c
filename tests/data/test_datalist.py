# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Which pairs are registered: every fault is found before anything else happens, and no two results share a folder."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset

from monai_locor import InputError
from monai_locor.data.datalist import registration_pairs
from monai_locor.data.pairs import PrepareBatchPair, ReadPaird, check_pairs, pair_collate


def image(path: Path, shape: tuple[int, ...] = (8, 9, 10), affine: np.ndarray | None = None, **change) -> str:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for index, value in change.get("voxels", {}).items():
        data[index] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return str(path)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    return {name: image(tmp_path / "images" / f"{name}.nii.gz") for name in ("a", "b", "c")}


def write(path: Path, content) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def refusal(**options) -> str:
    with pytest.raises(InputError) as caught:
        registration_pairs(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- one pair


def test_one_pair(files, tmp_path):
    (pair,) = registration_pairs(files["a"], files["b"], moving_mask=files["c"], output_dir=tmp_path / "new" / "out")
    assert pair == {
        "fixed": files["a"],
        "moving": files["b"],
        "moving_mask": files["c"],
        "name": "a_to_b",
        "folder": "",
    }
    assert not (tmp_path / "new").exists()  # checked, and nothing left behind


def test_paths_of_one_pair_are_relative_to_dataset_dir_else_to_the_working_directory(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = [files["a"], files["b"]]
    for folder, prefix in ((None, "images/"), (tmp_path / "images", ""), ("images", "")):
        (pair,) = registration_pairs(prefix + "a.nii.gz", Path(prefix + "b.nii.gz"), dataset_dir=folder)
        assert [pair["fixed"], pair["moving"]] == expected


def test_neither_both_or_half_a_pair_is_refused(files, tmp_path):
    datalist = write(tmp_path / "list.json", [{"fixed": files["a"], "moving": files["b"]}])
    assert "no fixed and no moving" in refusal()
    assert "no moving" in refusal(fixed=files["a"])
    assert "one or the other" in refusal(datalist=datalist, fixed=files["a"])
    assert "fixed must be the name of a file" in refusal(fixed=True, moving=files["b"])  # `--fixed` without a value
    assert "datalist must be the name of a file" not in refusal(datalist=[])


def test_missing_files_are_named(tmp_path):
    message = refusal(fixed=tmp_path / "x.nii", moving=tmp_path / "y.nii")
    assert f"fixed image {tmp_path / 'x.nii'}: no such file" in message
    assert f"moving {tmp_path / 'y.nii'}: no such file" in message


def test_output_comes_before_all_else(files, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(folder) in refusal(fixed="missing", moving="missing", output_dir=folder)


# --- a datalist


@pytest.mark.parametrize("key", ["testing", "inference", "validation", None])
def test_forms_of_a_datalist(files, tmp_path, key):
    items = [
        {"fixed": "images/a.nii.gz", "moving": "images/b.nii.gz", "fixed_mask": "images/c.nii.gz"},
        {"fixed": files["b"], "moving": "images/a.nii.gz", "name": "second", "moving_mask": None},
    ]
    content = items if key is None else {"training": [], key: items}
    pairs = registration_pairs(datalist=write(tmp_path / "list.json", content))
    assert [p["folder"] for p in pairs] == ["a_to_b", "second"]
    assert pairs[0]["fixed_mask"] == files["c"] and "moving_mask" not in pairs[1]
    assert pairs == registration_pairs(datalist=content, dataset_dir=tmp_path)


def test_folders_never_collide(files):
    names = ["x", "X", "x_2", "x", "../x", "a/b", "a b", "..", "", "é"]
    items = [{"fixed": files["a"], "moving": files["b"], "name": name} for name in names]
    folders = [pair["folder"] for pair in registration_pairs(datalist=items)]
    assert len({folder.casefold() for folder in folders}) == len(folders)
    assert all(Path(folder).name == folder and folder not in ("", ".", "..") for folder in folders)
    assert folders[0] == "x" and folders[2] == "x_2" and folders[8] == "a_to_b"
    assert folders == [pair["folder"] for pair in registration_pairs(datalist=items)]  # a second run finds the first's


def test_every_fault_of_a_datalist_is_named_in_one_line(files, tmp_path):
    items = [{"fixed": "images/none.nii", "moving": files["b"]}, {"fixd": files["a"], "moving": files["b"]}, "pair"]
    message = refusal(datalist=write(tmp_path / "list.json", {"testing": items}))
    for part in ("list.json", "pair 1: fixed image", "none.nii: no such file", "pair 2: has no fixed", "pair 3: is 'pair'"):
        assert part in message
    many = refusal(datalist=[{}] * 20)
    assert "and 35 more" in many


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"training": [{}]}', '"text"', '{"testing": {}}'])
def test_files_that_are_no_datalist(tmp_path, content):
    path = tmp_path / "list.json"
    path.write_text(content)
    assert str(path) in refusal(datalist=path)
    assert str(tmp_path / "none.json") in refusal(datalist=tmp_path / "none.json")


def test_a_file_where_a_result_belongs(files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    items = [{"fixed": files["a"], "moving": files["b"], "name": name} for name in ("first", "mine")]
    assert "mine" in refusal(datalist=items, output_dir=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["mine"]


# --- the images


def test_loading_keeps_grids_apart(files, tmp_path):
    big = image(tmp_path / "big.nii.gz", (12, 8, 9), np.diag([2.0, 2, 3, 1]))
    mask = str(tmp_path / "mask.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((8, 9, 10), np.uint8), np.eye(4)), mask)
    pairs = registration_pairs(
        datalist=[{"fixed": files["a"], "moving": big}, {"fixed": big, "moving": files["b"], "fixed_mask": mask}]
    )
    loader = DataLoader(Dataset(pairs, ReadPaird()), batch_size=2, collate_fn=pair_collate)
    (batch,) = loader
    assert [tuple(i.shape) for i in batch["fixed"]] == [(1, 8, 9, 10), (1, 12, 8, 9)]
    assert batch["moving"][0].affine.diagonal().tolist() == [2, 2, 3, 1]
    assert batch["fixed_mask"][0] is None and batch["fixed_mask"][1].shape == (1, 8, 9, 10)
    inputs, target, args, named = PrepareBatchPair()(batch, "cpu")
    assert (target, args) == (None, ()) and inputs[0].shape == (1, 8, 9, 10)
    assert named["moving_mask"] is None and named["fixed_mask"][0] is None


def test_voxels_that_are_not_finite_do_not_count(tmp_path):
    path = image(tmp_path / "nan.nii.gz", voxels={(0, 0, 0): np.nan, (7, 8, 9): np.inf})
    mask = np.ones((4, 9, 10), np.uint8)  # the first half of the image
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii.gz")
    alone = ReadPaird("fixed")({"fixed": path})
    assert bool(alone["fixed"].isfinite().all())
    assert float(alone["fixed_mask"].sum()) == 8 * 9 * 10 - 2
    both = ReadPaird("fixed")({"fixed": path, "fixed_mask": str(tmp_path / "mask.nii.gz")})
    assert both["fixed_mask"].shape == both["fixed"].shape
    assert float(both["fixed_mask"].sum()) == 4 * 9 * 10 - 1
    torch.testing.assert_close(both["fixed_mask"].affine, both["fixed"].affine)


def test_all_images_are_checked(files, tmp_path):
    good = {"fixed": files["a"], "moving": files["b"]}
    far = image(tmp_path / "far.nii.gz", affine=np.array([[1.0, 0, 0, 500], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    flat = image(tmp_path / "flat.nii.gz", (8, 9))
    check_pairs([good, {**good, "moving": far}])  # from the centers
    mask = str(tmp_path / "mask.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((8, 9, 10), np.uint8), nib.load(far).affine), mask)
    check_pairs([{**good, "moving": far, "moving_mask": mask}])
    for preset, second, text in (
        ({"initialization": "world"}, {**good, "moving": far}, "share only"),
        ("default", {**good, "moving": flat}, "both must be 2-D or both 3-D"),
        ("default", {**good, "moving_mask": mask}, "moving mask .*does not meet"),
    ):
        with pytest.raises(InputError, match=text) as caught:
            check_pairs([good, second], preset)
        assert second["moving"] in str(caught.value)
