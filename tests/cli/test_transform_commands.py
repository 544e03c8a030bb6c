# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""invert, compose, convert, jacobian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid
from monai_locor.io import read_affine, read_displacement_field, write_affine, write_displacement_field
from monai_locor.io.points import read_points
from monai_locor.io.transforms import FORMATS

from .files import AFFINE, SHAPE, load

MATRIX = np.array([[1.1, 0.1, 0, 3], [0, 0.9, 0, 2], [0.05, 0, 1, 1], [0, 0, 0, 1]])


def test_an_affine_is_inverted_exactly(run, tmp_path):
    write_affine(tmp_path / "a.tfm", MATRIX)
    answer = run("invert", tmp_path / "a.tfm", "-o", tmp_path / "b.tfm")
    assert answer.code == 0 and answer.out == f"{tmp_path / 'b.tfm'}: affine\n"
    np.testing.assert_allclose(read_affine(tmp_path / "b.tfm") @ MATRIX, np.eye(4), atol=1e-12)


def test_a_field_is_inverted_on_the_reference(run, folder):
    assert run("invert", folder / "field.nii.gz", "-r", folder / "moving.nii.gz", "-o", folder / "inv.nii.gz").code == 0
    field, grid = read_displacement_field(folder / "inv.nii.gz")
    assert grid.shape == SHAPE
    torch.testing.assert_close(field[:, 2:], torch.tensor([-4.0, 0, 0]).reshape(3, 1, 1, 1).expand(3, 12, 12, 10))


def test_transforms_are_composed_in_the_order_of_antsapplytransforms(run, folder):
    write_affine(folder / "double.tfm", np.diag([2.0, 1, 1, 1]))
    answer = run("compose", folder / "field.nii.gz", folder / "double.tfm", "-o", folder / "whole.nii.gz")
    assert answer.code == 0 and "displacement field, then affine, as one displacement field" in answer.out
    field, grid = read_displacement_field(folder / "whole.nii.gz")
    x = torch.from_numpy(grid.points())[..., 0]
    torch.testing.assert_close(field[0].double(), 2 * (x + 4) - x)
    write_affine(folder / "a.tfm", MATRIX)
    assert run("compose", folder / "a.tfm", folder / "double.tfm", "-o", folder / "both.tfm").code == 0
    np.testing.assert_allclose(read_affine(folder / "both.tfm"), np.diag([2.0, 1, 1, 1]) @ MATRIX)


@pytest.mark.parametrize(("name", "options"), [("c.mha", []), ("ants_", ["--to", "ants"])])
def test_conversions_there_and_back(run, folder, name, options):
    found = run("convert", folder / "field.nii.gz", "-o", folder / name, *options, "--json").json
    assert len(found["outputs"]) == (3 if options else 1)
    assert run("convert", folder / name, "-o", folder / "home.nii.gz").code == 0
    torch.testing.assert_close(*(read_displacement_field(folder / n)[0] for n in ("home.nii.gz", "field.nii.gz")))


def test_points_are_converted(run, folder):
    assert run("convert", folder / "fixed.csv", "-o", folder / "a.fcsv").code == 0
    found = run("convert", folder / "a.fcsv", "-o", folder / "b.csv", "--json").json
    assert found["kind"] == "points" and found["count"] == 2
    first, second = (read_points(folder / name) for name in ("fixed.csv", "b.csv"))
    np.testing.assert_allclose(second.points, first.points)
    assert tuple(second.labels) == tuple(first.labels) == ("a", "b")


def test_the_formats_are_listed(run):
    out = run("convert", "--list-formats").out
    assert all(f"{name} " in out for name in FORMATS) and "points:" in out
    assert [f["name"] for f in run("convert", "--list-formats", "--json").json["formats"]] == list(FORMATS)


def folded(path):
    """A field that turns x around within one slice."""
    field = torch.zeros(3, *SHAPE)
    field[0, 7] = -9.0
    write_displacement_field(path, field, Grid(SHAPE, AFFINE))


def test_the_jacobian_as_numbers_and_image(run, folder):
    folded(folder / "fold.nii.gz")
    found = run("jacobian", folder / "fold.nii.gz", "-o", folder / "j.nii.gz", "--json").json
    assert found["jacobian"]["folding_voxels"] == 120
    image = load(folder / "j.nii.gz")
    assert image.min() == found["jacobian"]["min"] < 0 and image[0, 0, 0] == 1
    assert run("jacobian", folder / "fold.nii.gz", "-o", folder / "j.nii.gz", "--log", "--force").code == 0
    np.testing.assert_allclose(load(folder / "j.nii.gz"), np.log(np.maximum(image, 1e-9)), rtol=1e-5)


def test_the_jacobian_of_an_affine_and_of_an_inverse(run, folder):
    write_affine(folder / "a.tfm", np.diag([2.0, 1, 1, 1]))
    for options, expected in (([], 2.0), (["--inverse"], 0.5)):
        found = run("jacobian", folder / "a.tfm", "-r", folder / "fixed.nii.gz", *options, "--json").json["jacobian"]
        assert found["min"] == pytest.approx(expected) == found["max"]


def test_what_is_refused(refused, folder, monkeypatch):
    monkeypatch.chdir(folder)
    write_affine(folder / "a.tfm", MATRIX)
    for words, message in (
        (["invert", "none.tfm", "-o", "o.tfm"], "none.tfm: no such file"),
        (["invert", "a.tfm", "-o", "a.tfm", "--force"], "a.tfm: is also an input"),
        (["invert", "a.tfm", "-o", "o.xyz"], "o.xyz"),
        (["invert", "a.tfm", "-o", "back.nii.gz"], "already exists"),
        (["invert", "field.nii.gz", "-o", "o.tfm"], "o.tfm"),
        (["compose", "a.tfm", "-o", "o.nii.gz"], "o.nii.gz"),
        (["compose", "a.tfm", "-o", "o.nii.gz", "--format", "nonsense"], "nonsense"),
        (["convert"], "--list-formats"),
        (["convert", "a.tfm"], "-o"),
        (["convert", "fixed.csv", "moving.csv", "-o", "o.csv"], "only one list of points"),
        (["convert", "fixed.csv", "-o", "o.nii"], "o.nii"),
        (["convert", "fixed.csv", "-o", "o.csv", "--fixed", "fixed.nii.gz"], "--fixed fixed.nii.gz: is for transforms"),
        (["convert", "fixed.csv", "-o", "o.csv", "--moving", "none.nii.gz"], "--moving none.nii.gz: is for transforms"),
        (["jacobian", "a.tfm"], "name an image with -r"),
        (["jacobian", "field.nii.gz", "--log"], "--log"),
        (["jacobian", "field.nii.gz", "-o", "o.tfm"], "o.tfm: its name must end in"),
        (["jacobian", "field.nii.gz", "--mask", "none.nii"], "none.nii: no such file"),
    ):
        assert message in refused(*words), words


@pytest.mark.parametrize("inside", ["jacobian", "invert", "convert"])
def test_a_refusal_leaves_no_new_folders(refused, folder, inside):
    (folder / "broken.nii.gz").write_bytes(b"no image")
    refused(inside, folder / "broken.nii.gz", "-o", folder / "new" / "deep" / "out.nii.gz")
    assert not (folder / "new").exists()
