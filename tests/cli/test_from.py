# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``--from``: what a transform file holds is said in every command that takes one."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import read_transform, write_transform

from .files import AFFINE, SHAPE, SHIFT, load, save


@pytest.fixture
def bare(folder):
    """A displacement by SHIFT without a word of what it is, and a matrix likewise."""
    save(folder / "bare.nii.gz", np.broadcast_to(np.array(SHIFT, np.float32), (*SHAPE, 3)).copy())
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT
    np.savetxt(folder / "bare.mat", matrix)
    return folder


def commands(folder, name: str) -> list[list[object]]:
    file, fixed, moving = folder / name, folder / "fixed.nii.gz", folder / "moving.nii.gz"
    return [
        ["apply", folder / "fixed.csv", "-t", file, "-o", folder / "moved.csv"],
        ["evaluate", "-t", file, "--fixed", fixed],
        ["jacobian", file, "-r", fixed],
        ["invert", file, "-r", fixed, "-o", folder / "out.nii"],
        ["compose", file, "-r", fixed, "-o", folder / "out.nii"],
        ["convert", file, "--fixed", fixed, "--moving", moving, "-o", folder / "out.h5"],
    ]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize(("name", "format"), [("bare.nii.gz", "ras-displacement"), ("bare.mat", "greedy")])
def test_every_command_refuses_and_is_told(run, refused, bare, number, name, format):
    words = commands(bare, name)[number]
    message = refused(*words)
    assert name in message and "--from" in message and format in message
    assert not (bare / "moved.csv").exists() and not (bare / "out.nii").exists()
    answer = run(*words, "--from", format)
    assert answer.code == 0, answer
    if words[0] == "apply":
        moved = np.loadtxt(bare / "moved.csv", delimiter=",", skiprows=1, usecols=(0, 1, 2))
        np.testing.assert_allclose(moved, np.add([[8, 10, 12], [10, 12, 15]], SHIFT), atol=1e-3)
    for wrong, said in (("gredy", "--from gredy: not a transform format"), ("auto", "--from")):
        assert said in refused(*words, "--force" if "-o" in words else "-q", "--from", wrong)


@pytest.mark.parametrize("name", ["bare.nii.gz", "bare.mat"])
def test_info(run, bare, name):
    answer = run("info", bare / name)
    format = "greedy" if name == "bare.mat" else "ras-displacement"
    assert "--from" in answer.out + answer.err and format in answer.out + answer.err
    assert answer.code == (2 if name == "bare.mat" else 0)
    found = run("info", bare / name, "--from", format, "-r", bare / "fixed.nii.gz", "--json").json["files"][0]
    assert found["what"] == "transform" and abs(found["displacement_mm"]["mean"] - 4) < 1e-5


def test_info_knows_positions(run, folder):
    grid = Grid(SHAPE, AFFINE)
    for shape in ((*SHAPE, 3), (*SHAPE, 1, 3)):
        save(folder / "positions.nii", (grid.points() + SHIFT).astype(np.float32).reshape(shape))
        found = run("info", folder / "positions.nii", "--json").json["files"][0]
        assert found["what"] == "transform" and abs(found["displacement_mm"]["max"] - 4) < 1e-4


def test_one_for_each(run, refused, bare):
    names = ["bare.nii.gz", "bare.mat", "field.nii.gz"]
    words = ["compose", *(bare / name for name in names), "-r", bare / "fixed.nii.gz", "-o", bare / "out.nii"]
    options = ["--from", "ras-displacement", "--from", "greedy", "--from", "auto"]
    assert run(*words, *options).code == 0
    np.testing.assert_allclose(load(bare / "out.nii")[0, 5, 5, 0], np.multiply(SHIFT, (-3, -3, 3)), atol=1e-4)
    assert "2 formats for 3 transforms" in refused(*words, *options[:4])
    words = ["evaluate", "-t", bare / "bare.nii.gz", "--inverse-transform", f"[{bare / 'bare.mat'},1]"]
    assert run(*words, "--fixed", bare / "fixed.nii.gz", *options[:4]).code == 0


def test_the_start_of_a_registration(run, refused, bare):
    words = ["register", bare / "fixed.nii.gz", bare / "moving.nii.gz", "-o", bare / "out", "--initial", bare / "bare.mat"]
    assert "--from" in refused(*words)
    assert "--initial-from gredy" in refused(*words, "--initial-from", "gredy")
    assert "name one with --initial" in refused(*words[:5], "--initial-from", "greedy")
    assert not (bare / "out").exists()


def test_a_label_map_of_three_frames_stays_an_image(run, folder):
    labels = np.zeros((*SHAPE, 3), np.int16)
    labels[3:6, 3:8, 3:7] = 2
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / "labels.nii")
    found = run("info", folder / "labels.nii", "--json").json["files"][0]
    assert found["what"] == "image" and found["labels"] == [0, 2] and "--from" in found["hint"]


PLACES = {
    "fixed": [[-2.0, 0, 0, 20], [0, 2, 0, -22], [0, 0, 2, -18], [0, 0, 0, 1]],
    "moving": [[1.5, 0, 0, -25], [0, 1.5, 0, -10], [0, 0, 2, -30], [0, 0, 0, 1]],
}


@pytest.fixture
def pair(tmp_path):
    """Two grids that differ in everything, and one transform in a format that counts their voxels and in one that does not."""
    grids = {"fixed": Grid((20, 22, 18), np.array(PLACES["fixed"])), "moving": Grid((30, 24, 20), np.array(PLACES["moving"]))}
    for role, grid in grids.items():
        save(tmp_path / f"{role}.nii", grid.points()[..., 0].astype(np.float32), grid.affine)
    matrix = np.eye(4)
    matrix[:2, :2], matrix[:3, 3] = [[0.98, -0.2], [0.2, 0.98]], (5, -3, 2)
    write_transform(tmp_path / "plain.tfm", SpatialTransform.of_affine(matrix))
    write_transform(tmp_path / "counted.mat", SpatialTransform.of_affine(matrix), format="flirt", **grids)
    return tmp_path


@pytest.mark.parametrize("inverse", [False, True])
def test_apply_counts_the_voxels_of_the_right_images(run, pair, inverse):
    source, target = ("fixed", "moving") if inverse else ("moving", "fixed")
    found = []
    for name in ("plain.tfm", "counted.mat"):
        words = ["apply", pair / f"{source}.nii", "-t", pair / name, "-r", pair / f"{target}.nii", "-o", pair / f"{name}.nii"]
        assert run(*words, *["--inverse"] * inverse).code == 0
        found.append(load(pair / f"{name}.nii"))
    np.testing.assert_allclose(*found, atol=1e-3)


@pytest.mark.parametrize(
    ("command", "other"),
    [
        (["compose", "-r", "fixed.nii", "-o", "out.tfm"], ["--moving", "moving.nii"]),
        (["invert", "-r", "moving.nii", "-o", "out.tfm"], ["--fixed", "fixed.nii"]),
        (["jacobian", "-r", "fixed.nii"], ["--moving", "moving.nii"]),
        (["info", "-r", "fixed.nii"], ["--moving", "moving.nii"]),
    ],
)
def test_the_other_image_can_be_named(run, refused, pair, monkeypatch, command, other):
    monkeypatch.chdir(pair)
    assert "image; give that image as well" in refused(command[0], "counted.mat", *command[1:])
    answers = []
    for name in ("counted.mat", "plain.tfm"):
        answer = run(command[0], name, *command[1:], *other, "--json", *["--force"] * ("-o" in command))
        assert answer.code == 0, answer
        matrix = read_transform("out.tfm").matrix if "-o" in command else answer.json.get("files", [answer.json])[0]
        answers.append(matrix if "-o" in command else matrix["jacobian"]["p50"])
    np.testing.assert_allclose(*answers, atol=1e-6)
