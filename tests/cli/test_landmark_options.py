# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``register --landmarks``: files, pixels, weights, and the record of the run."""

from __future__ import annotations

import numpy as np
import pytest

from monai_locor.io.points import PointList, write_points

from ..run_schema import valid_run
from .files import AFFINE, REGISTER, load

VOXELS = np.array([[3.0, 4.0, 5.0], [9.0, 8.0, 4.0], [7.0, 3.0, 6.0]])


@pytest.fixture
def files(short_folder):
    folder = short_folder
    for name, shift in (("fixed", 0.0), ("moving", 1.0)):
        voxels = VOXELS + [shift, 0, 0]
        write_points(folder / f"{name}.csv", PointList(voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]))
        write_points(folder / f"{name}_voxels.csv", PointList(voxels))
    return folder


def recorded(folder, name="out") -> dict:
    return valid_run(folder / name / "run.json")


def test_they_are_recorded_and_repeated(run, files):
    answer = run(*REGISTER, "-o", "out", "--landmarks", "fixed.csv", "moving.csv", "--landmark-weight", "2")
    assert answer.code in (0, 1) and "3 landmarks: mean 2 mm before" in answer.out
    content = recorded(files)
    assert content["settings"]["landmark_weight"] == 2 and content["landmarks_mm"]["before"]["each"] == [2, 2, 2]
    for name in ("fixed.csv", "moving.csv"):
        (files / name).unlink()  # the record has the values
    assert run("register", "--from", "out/run.json", "-o", "again", "--outputs", "forward").code == answer.code
    assert recorded(files, "again")["landmarks_mm"] == content["landmarks_mm"]
    fields = [load(files / name / "forward_field.nii.gz") for name in ("out", "again")]
    np.testing.assert_array_equal(*fields)


def test_pixels_are_those_of_the_images(run, files):
    for name, words in (("mm", []), ("voxels", ["--pixels"])):
        paths = [f"{role}{'_voxels' if words else ''}.csv" for role in ("fixed", "moving")]
        assert run(*REGISTER, "-o", name, "--landmarks", *paths, *words).code in (0, 1)
    found = [recorded(files, name)["arguments"]["landmarks"] for name in ("mm", "voxels")]
    for role in ("fixed", "moving"):
        np.testing.assert_allclose(found[0][role], found[1][role], atol=1e-9)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[500.0, 0, 0]] * 3, "landmark 1 of the moving points, (500, 0, 0) mm: lies outside the moving image"),
        ([[3.0, 3.0, 3.0]] * 2, "fixed 3 points of 3 coordinates, moving 2 points"),
    ],
)
def test_wrong_points_are_refused(run, files, points, message):
    write_points(files / "wrong.csv", PointList(points))
    answer = run(*REGISTER, "-o", "out", "--landmarks", "fixed.csv", "wrong.csv")
    assert answer.code == 2 and message in answer.err and not (files / "out" / "run.json").exists()
