# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``register --surfaces``: the record of the run, and refusals before it."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest

from ..meshes import ellipsoid, moved, write_mesh
from ..run_schema import valid_run
from .files import REGISTER, load


@pytest.fixture
def files(short_folder):
    folder = short_folder
    image = nib.load(folder / "fixed.nii.gz")
    middle = nib.affines.apply_affine(image.affine, (np.array(image.shape[:3]) - 1) / 2)
    mesh = ellipsoid((4.0, 3.0, 3.0), middle, rings=6)
    write_mesh(folder / "a.vtk", mesh, "SPACE=RAS")
    write_mesh(folder / "b.stl", moved(mesh, (1.0, 0, 0)), "SPACE=RAS")
    write_mesh(folder / "plain.obj", mesh)
    return folder


def test_they_are_recorded_and_repeated(run, files):
    two = ("--surfaces", "a.vtk", "b.stl", "--surfaces", "a.vtk", "a.vtk")
    answer = run(*REGISTER, "-o", "out", *two, "--surface-weight", "2")
    assert answer.code in (0, 1) and re.search(r"surfaces \(2\): mean distance 0\.\d+ mm before, 0\.\d+ mm after", answer.out)
    content = valid_run(files / "out" / "run.json")
    assert content["settings"]["surface_weight"] == 2 and content["surface_mm"]["names"] == ["a.vtk", "a.vtk"]
    assert run("register", "--from", "out/run.json", "-o", "again", "--outputs", "forward").code == answer.code
    assert valid_run(files / "again" / "run.json")["surface_mm"] == content["surface_mm"]
    np.testing.assert_array_equal(*[load(files / name / "forward_field.nii.gz") for name in ("out", "again")])


def test_the_space_is_an_option(run, files):
    answer = run(*REGISTER, "-o", "out", "--surfaces", "a.vtk", "plain.obj", "--surface-space", "ras", "--surface-weight", "0")
    assert answer.code in (0, 1)
    content = valid_run(files / "out" / "run.json")
    assert content["settings"]["surface_space"] == "ras" and content["surface_mm"]["before"]["mean"] < 0.1


def test_files_that_are_no_surfaces_are_refused(run, files):
    answer = run(*REGISTER, "-o", "out", "--surfaces", "a.vtk", "moving.nii.gz")
    assert answer.code == 2 and "is not a surface that is read" in answer.err and not (files / "out" / "run.json").exists()
