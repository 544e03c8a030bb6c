# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What is written comes back, where it was, and is never seen half-written."""

from __future__ import annotations

import logging
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_locor.errors import InputError
from monai_locor.geometry import Grid
from monai_locor.io import atomic_path, check_output_dir, read_image, write_image
from monai_locor.io.paths import STATE_FOLDER, no_empty_folders, remove_state

AFFINE = np.array([[0.0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_images_come_back(tmp_path, suffix):
    data = torch.rand(1, 4, 5, 6)
    path = tmp_path / f"a{suffix}"
    write_image(path, MetaTensor(data), Grid((4, 5, 6), AFFINE))
    image = read_image(path)[0]
    assert torch.equal(image.as_tensor(), data)
    np.testing.assert_allclose(image.affine.numpy(), AFFINE, atol=1e-6)
    header = nib.load(path).header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 1 and header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(header.get_qform(), AFFINE, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_two_dimensional_images_are_read_as_such_by_all(tmp_path):
    affine = np.array([[2.0, 0, 7], [0, -3, 8], [0, 0, 1]])
    write_image(tmp_path / "a.nii", torch.rand(4, 5), Grid((4, 5), affine))
    assert nib.load(tmp_path / "a.nii").shape == (4, 5)
    image = itk.imread(str(tmp_path / "a.nii"))
    np.testing.assert_array_equal(itk.array_from_matrix(image.GetDirection()), [[-1, 0], [0, 1]])
    assert list(image.GetSpacing()) == [2, 3] and list(image.GetOrigin()) == [-7, -8]
    np.testing.assert_allclose(Grid.of(read_image(tmp_path / "a.nii")[0]).affine, affine)


@pytest.mark.parametrize(
    ("given", "asked", "stored"),
    [
        (torch.bool, None, "uint8"),
        (torch.uint8, None, "uint8"),
        (torch.int16, None, "int16"),
        (torch.int64, None, "int32"),
        (torch.float16, None, "float32"),
        (torch.bfloat16, None, "float32"),
        (torch.float64, None, "float32"),
        (torch.float64, np.float64, "float64"),
        (torch.float32, "uint8", "uint8"),
    ],
)
def test_types_of_files(tmp_path, given, asked, stored):
    data = torch.tensor([[0, 1], [1, 0]]).to(given)
    write_image(tmp_path / "a.nii", data, Grid((2, 2), np.eye(3)), asked)
    image = nib.load(tmp_path / "a.nii")
    assert image.get_data_dtype() == np.dtype(stored)
    np.testing.assert_array_equal(np.asarray(image.dataobj), [[0, 1], [1, 0]])


def test_floats_are_rounded_for_integer_files(tmp_path):
    write_image(tmp_path / "a.nii", torch.tensor([[0.6, 1.4]]), Grid((1, 2), np.eye(3)), "int16")
    assert np.asarray(nib.load(tmp_path / "a.nii").dataobj).ravel().tolist() == [1, 1]


def test_images_that_cannot_be_written(tmp_path):
    grid = Grid((4, 5), np.eye(3))
    for shape in [(4, 6), (2, 4, 6), (1, 1, 4, 5)]:
        with pytest.raises(ValueError, match="does not fit a grid"):
            write_image(tmp_path / "a.nii", torch.zeros(shape), grid)
    for value in (300.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="do not fit uint8"):
            write_image(tmp_path / "a.nii", torch.full((4, 5), value), grid, "uint8")
    with pytest.raises(InputError, match=r"a\.gif: its name must end in \.nii"):
        write_image(tmp_path / "a.gif", torch.zeros(4, 5), grid)
    assert list(tmp_path.iterdir()) == []


def test_sheared_grids_have_no_qform_and_a_warning(tmp_path, caplog):
    affine = AFFINE.copy()
    affine[0, 0] = 0.5
    with caplog.at_level(logging.WARNING):
        write_image(tmp_path / "a.nii", torch.rand(4, 5, 6), Grid((4, 5, 6), affine))
    assert f"{tmp_path / 'a.nii'}: its axes are not at right angles" in caplog.text
    assert int(nib.load(tmp_path / "a.nii").header["qform_code"]) == 0
    np.testing.assert_allclose(read_image(tmp_path / "a.nii")[0].affine.numpy(), affine, atol=1e-6)


# --- paths


def test_output_folders_are_made_with_their_parents(tmp_path):
    folder = check_output_dir(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b" and folder.is_dir() and list(folder.iterdir()) == []
    assert check_output_dir(str(folder)) == folder


def test_a_bare_name_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_output_dir("").is_dir() and check_output_dir("out") == Path("out")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="in the way"):
        check_output_dir(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written to"):
        check_output_dir(tmp_path / "file" / "a" / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_to_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    with pytest.raises(InputError, match="No space left on device"):
        check_output_dir(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_stay_empty_go_again(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(InputError), no_empty_folders(there / "a" / "b"):
        check_output_dir(there / "a" / "b")
        raise InputError("refused")
    assert list(there.iterdir()) == []
    with no_empty_folders(there / "a" / "b"):
        (check_output_dir(there / "a") / "kept").write_text("")
        check_output_dir(there / "a" / "b")
    assert [p.name for p in (there / "a").iterdir()] == ["kept"]
    with no_empty_folders(there / "a"):  # what was there before stays, empty or not
        (there / "a" / "kept").unlink()
    assert (there / "a").is_dir()


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.nii.gz"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.name.endswith("a.nii.gz") and temporary != target
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_what_killed_processes_left_is_removed(tmp_path):
    kept = ["a.nii.gz", ".0123abcd-b.nii.gz", ".0123abcg-a.nii.gz", ".0123abcd-a.nii", "0123abcd-a.nii.gz", ".hidden"]
    for name in (*kept, ".0123abcd-a.nii.gz", ".ffffffff-a.nii.gz"):
        (tmp_path / name).write_text("")
    (tmp_path / ".11111111-a.nii.gz").mkdir()
    (tmp_path / STATE_FOLDER).mkdir()
    (tmp_path / STATE_FOLDER / "stage_0.npz").write_text("")
    remove_state(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".11111111-a.nii.gz"}
    remove_state(tmp_path / "nothing")
