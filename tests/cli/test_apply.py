# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images, label maps and points through transforms, forwards and backwards."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid
from monai_locor.io import write_displacement_field
from monai_locor.io.fields import write_affine
from monai_locor.quality import ErrorMap
from monai_locor.registration.error_files import write_error_map

from .files import AFFINE, SHAPE, load, save

INNER = (slice(0, SHAPE[0] - 2),)  # where the shift by two voxels leaves something to read


def test_an_image_goes_from_moving_to_fixed(run, folder):
    answer = run("apply", folder / "moving.nii.gz", "-t", folder / "field.nii.gz", "-o", folder / "new" / "out.nii.gz")
    assert answer.code == 0 and "14x12x10 voxels of 2x2x3 mm" in answer.out
    out = load(folder / "new" / "out.nii.gz")
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[INNER], 2 - load(folder / "fixed.nii.gz")[INNER], atol=1e-5)
    np.testing.assert_allclose(nib.load(folder / "new" / "out.nii.gz").affine, AFFINE)


@pytest.mark.parametrize("back", [["-t", "field.nii.gz", "--inverse"], ["-t", "[field.nii.gz,1]"], ["-t", "back.nii.gz"]])
def test_three_ways_to_go_back(run, folder, monkeypatch, back):
    monkeypatch.chdir(folder)
    assert run("apply", "fixed_labels.nii.gz", *back, "-r", "moving.nii.gz", "--labels", "-o", "out.nii").code == 0
    np.testing.assert_array_equal(load(folder / "out.nii")[2:], load(folder / "moving_labels.nii.gz")[2:])


def test_transforms_are_taken_in_the_order_of_antsapplytransforms(run, folder):
    """Points go through the first one first: doubling x and then the shift is not the shift and then doubling."""
    double = np.diag([2.0, 1, 1, 1])
    write_affine(folder / "double.tfm", double)
    (folder / "p.csv").write_text("x,y,z\n5,10,12\n")
    for order, expected in ((["double.tfm", "field.nii.gz"], 14.0), (["field.nii.gz", "double.tfm"], 18.0)):
        options = [word for name in order for word in ("-t", folder / name)]
        assert run("apply", folder / "p.csv", *options, "-o", folder / "q.csv", "--force").code == 0
        assert read_csv(folder / "q.csv")[0][:3] == [expected, 10.0, 12.0]


def read_csv(path):
    lines = path.read_text().splitlines()[1:]
    return [[float(v) if i < 3 else v for i, v in enumerate(line.split(","))] for line in lines]


def test_points_go_from_fixed_to_moving_and_keep_their_labels(run, folder):
    assert run("apply", folder / "fixed.csv", "-t", folder / "field.nii.gz", "-o", folder / "there.csv").code == 0
    assert read_csv(folder / "there.csv") == [[12.0, 10.0, 12.0, "a"], [14.0, 12.0, 15.0, "b"]]
    run("apply", folder / "there.csv", "-t", folder / "field.nii.gz", "--inverse", "-o", folder / "home.csv")
    np.testing.assert_allclose([p[:3] for p in read_csv(folder / "home.csv")], [[8, 10, 12], [10, 12, 15]], atol=1e-3)


def test_points_get_their_estimated_error(run, refused, folder):
    """From the folder that is the transform, forwards and backwards, or from a file; empty where not determined."""
    out, grid = folder / "out", Grid(SHAPE, AFFINE)
    out.mkdir()
    (folder / "field.nii.gz").rename(out / "forward_field.nii.gz")
    (folder / "back.nii.gz").rename(out / "inverse_field.nii.gz")
    values = torch.tensor([0.5, 0.25, 1.5]).reshape(3, 1, 1, 1).repeat(1, *SHAPE)
    values[:, 5:, 6:] = torch.nan  # the second point
    write_error_map(out / "error.nii.gz", ErrorMap.of_channels(values, grid))
    run("apply", folder / "fixed.csv", "-t", out, "-o", folder / "there.csv")
    lines = (folder / "there.csv").read_text().splitlines()
    assert lines[0] == "x,y,z,label,error_mm,error_low_mm,error_high_mm"
    assert lines[1].endswith(",a,0.5,0.25,1.5") and lines[2].endswith(",b,,,")
    run("apply", folder / "there.csv", "-t", out, "--inverse", "-o", folder / "home.csv")
    assert [line.split(",", 4)[4] for line in (folder / "home.csv").read_text().splitlines()[1:]] == ["0.5,0.25,1.5", ",,"]
    named = ["-t", out / "forward_field.nii.gz", "--error-map", out / "error.nii.gz"]
    for name in ("there.fcsv", "there.mrk.json"):
        assert run("apply", folder / "fixed.csv", *named, "-o", folder / name).code == 0
        assert (folder / name).read_text().count("error_mm 0.5, error_low_mm 0.25, error_high_mm 1.5") == 1
    run("apply", folder / "fixed.csv", *named, "--lps", "-o", folder / "ants.csv")
    assert (folder / "ants.csv").read_text().startswith("x,y,z,t,label\n")
    assert "is for points" in refused("apply", folder / "moving.nii.gz", *named, "-o", folder / "new.nii.gz")


def test_points_outside_the_field_are_said(run, folder):
    (folder / "far.csv").write_text("x,y,z\n500,0,0\n5,5,5\n")
    answer = run("apply", folder / "far.csv", "-t", folder / "field.nii.gz", "-o", folder / "out.csv")
    assert answer.code == 0 and "1 of 2 lie outside" in answer.err


def test_labels_keep_their_type_and_nothing_is_invented(run, folder):
    huge = np.where(load(folder / "moving_labels.nii.gz") == 300, 2**31 - 2, 0).astype(np.int32)  # no float32 holds it
    save(folder / "huge.nii.gz", huge)
    half = np.diag([0.7, 0.9, 1.3, 1.0])
    save(folder / "other_grid.nii.gz", np.zeros((30, 20, 20), np.uint8), half)
    run("apply", folder / "huge.nii.gz", "-t", folder / "field.nii.gz", "-r", folder / "other_grid.nii.gz", "--labels",
        "-o", folder / "out.nii.gz")  # fmt: skip
    out = nib.load(folder / "out.nii.gz")
    assert out.get_data_dtype() == np.int32 and out.shape == (30, 20, 20)
    assert set(np.unique(np.asarray(out.dataobj))) == {0, 2**31 - 2}


def test_float_label_maps_become_integers(run, folder):
    save(folder / "float.nii.gz", load(folder / "moving_labels.nii.gz").astype(np.float64))
    run("apply", folder / "float.nii.gz", "-t", folder / "field.nii.gz", "--labels", "-o", folder / "out.nii.gz")
    assert nib.load(folder / "out.nii.gz").get_data_dtype() == np.int32
    assert set(np.unique(load(folder / "out.nii.gz"))) == {-2, 0, 300}


def test_channels(run, folder, refused):
    data = np.stack([load(folder / "moving.nii.gz")] * 2, -1)
    data[..., 1] += 1
    save(folder / "two.nii.gz", data)
    common = ["apply", folder / "two.nii.gz", "-t", folder / "field.nii.gz", "-o", folder / "out.nii.gz"]
    assert "2 channels or frames" in refused(*common)
    for no_number in ("x", "²", "-1", ""):
        assert f"--channel {no_number}: give a number from 0" in refused(*common, f"--channel={no_number}")
    assert run(*common, "--channel", "1").code == 0
    one = load(folder / "out.nii.gz")
    assert run(*common, "--channel", "all", "--force").code == 0
    both = load(folder / "out.nii.gz")
    assert both.shape == (*SHAPE, 2)
    np.testing.assert_allclose(both[INNER][..., 1], one[INNER], atol=1e-6)


def test_nearest_keeps_the_type(run, folder):
    save(folder / "int.nii.gz", np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16))
    run("apply", folder / "int.nii.gz", "-t", folder / "field.nii.gz", "-n", "nearest", "-o", folder / "out.nii.gz")
    out = nib.load(folder / "out.nii.gz")
    assert out.get_data_dtype() == np.int16
    np.testing.assert_array_equal(load(folder / "out.nii.gz")[INNER], load(folder / "int.nii.gz")[2:])


@pytest.mark.parametrize("stored", [np.uint32, np.float64])
def test_nearest_keeps_numbers_that_float32_does_not_have(run, folder, stored):
    large = (2**24 + 1 + np.arange(np.prod(SHAPE)).reshape(SHAPE)).astype(stored)
    save(folder / "large.nii.gz", large)
    out = folder / "out.nii.gz"
    run("apply", folder / "large.nii.gz", "-t", folder / "field.nii.gz", "-n", "nearest", "-o", out)
    if stored == np.uint32:
        assert nib.load(out).get_data_dtype() == np.uint32
        np.testing.assert_array_equal(load(out)[INNER], large[2:])
    else:  # floating point is written in single precision
        np.testing.assert_array_equal(load(out)[INNER], large[2:].astype(np.float32))


def test_the_output_folder_of_register_is_a_transform(run, folder):
    (folder / "run").mkdir()
    (folder / "field.nii.gz").rename(folder / "run" / "forward_field.nii.gz")
    (folder / "back.nii.gz").rename(folder / "run" / "inverse_field.nii.gz")
    assert run("apply", folder / "moving.nii.gz", "-t", folder / "run", "-o", folder / "a.nii.gz").code == 0
    np.testing.assert_allclose(load(folder / "a.nii.gz")[INNER], 2 - load(folder / "fixed.nii.gz")[INNER], atol=1e-5)
    found = run("apply", folder / "moving.csv", "-t", folder / "run", "--inverse", "-o", folder / "b.csv", "--json").json
    assert found["kind"] == "points" and found["count"] == 2 and found["inverse"] is True
    assert read_csv(folder / "b.csv") == [[10.0, 12.0, 15.0, "b"], [8.0, 10.0, 12.0, "a"]]


def test_two_dimensions(run, tmp_path):
    image = np.arange(56, dtype=np.float32).reshape(8, 7)
    save(tmp_path / "m.nii.gz", image, np.diag([2.0, 1, 1, 1]))
    grid = Grid((8, 7), np.diag([2.0, 1, 1]))
    import torch

    write_displacement_field(tmp_path / "t.nii.gz", torch.tensor([2.0, 0]).reshape(2, 1, 1).expand(2, 8, 7), grid)
    assert run("apply", tmp_path / "m.nii.gz", "-t", tmp_path / "t.nii.gz", "-o", tmp_path / "o.nii.gz").code == 0
    np.testing.assert_allclose(load(tmp_path / "o.nii.gz")[:7], image[1:])


def test_points_of_ants_in_two_dimensions(run, refused, folder, monkeypatch):
    """ANTs also writes z in 2-D."""
    monkeypatch.chdir(folder)
    write_affine(folder / "t.tfm", np.array([[1.0, 0, 2], [0, 1, 3], [0, 0, 1]]))
    (folder / "flat.csv").write_text("x,y,label\n1,2,7\n4,5,8\n")
    assert run("convert", "flat.csv", "-o", "ants.csv", "--to", "ants").code == 0
    assert (folder / "ants.csv").read_text().splitlines()[:2] == ["x,y,z,t,label", "-1.0,-2.0,0,0,7"]
    assert run("apply", "ants.csv", "-t", "t.tfm", "--lps", "-o", "moved.csv").code == 0
    assert (folder / "moved.csv").read_text().splitlines() == ["x,y,z,t,label", "-3.0,-5.0,0,0,7", "-6.0,-8.0,0,0,8"]
    assert run("apply", "moved.csv", "-t", "t.tfm", "--lps", "--inverse", "-o", "home.csv").code == 0
    assert read_csv(folder / "home.csv") == read_csv(folder / "ants.csv")
    found = run("convert", "ants.csv", "--from", "ants", "-o", "back.csv", "--json").json
    assert found["dims"] == 2 and (folder / "back.csv").read_text().splitlines()[:2] == ["x,y,label", "1.0,2.0,7"]
    known = run("convert", "ants.csv", "--from", "ants", "--fixed", "fixed.nii.gz", "-o", "back.csv", "--force", "--json").json
    assert known["dims"] == 3 and (folder / "back.csv").read_text().splitlines()[:2] == ["x,y,z,label", "1.0,2.0,0.0,7"]
    assert run("convert", "ants.csv", "--from", "ants", "-o", "slicer.fcsv", "--json").json["dims"] == 3
    assert "--fixed fixed.nii.gz: is for transforms" in refused("convert", "flat.csv", "--fixed", "fixed.nii.gz", "-o", "q.csv")
    refusal = "is 3-D, the transform 2-D"
    assert refusal in run("apply", "ants.csv", "-t", "t.tfm", "-o", "q.csv").err
    (folder / "deep.csv").write_text("x,y,z,t,label\n1,2,0,0,1\n1,2,3,0,2\n")
    assert refusal in refused("apply", "deep.csv", "-t", "t.tfm", "--lps", "-o", "q.csv")


def test_what_is_refused(refused, folder, monkeypatch):
    monkeypatch.chdir(folder)
    ok = ["apply", "moving.nii.gz", "-t", "field.nii.gz", "-o", "out.nii.gz"]
    (folder / "flat.csv").write_text("x,y\n1,2\n")
    save(folder / "flat.nii.gz", np.random.default_rng(0).random((5, 6)).astype(np.float32))
    write_affine(folder / "affine.tfm", np.eye(4))
    (folder / "empty").mkdir()
    for words, message in (
        (["apply", "none.nii.gz", *ok[2:]], "none.nii.gz: no such file"),
        ([*ok[:3], "none.nii.gz", *ok[4:]], "none.nii.gz: no such file"),
        ([*ok, "-t", "moving.csv"], "moving.csv"),
        ([*ok, "-r", "none.nii.gz"], "reference image none.nii.gz: no such file"),
        ([*ok[:5], "out.jpg"], "out.jpg: its name must end in .nii, .nii.gz, .nrrd, .mha for image"),
        (["apply", "fixed.csv", *ok[2:]], "must end in .csv"),
        ([*ok[:5], "moving.nii.gz", "--force"], "moving.nii.gz: is also an input"),
        ([*ok[:5], "back.nii.gz"], "back.nii.gz: already exists; name another, or add --force"),
        (["apply", "flat.csv", *ok[2:5], "o.csv"], "points flat.csv: is 2-D, the transform 3-D"),
        (["apply", "flat.nii.gz", *ok[2:]], "field.nii.gz: the transform has 3 dimensions, the image 2"),
        (["apply", "moving.nii.gz", *ok[2:], "--labels"], "labels are whole numbers"),
        (["apply", "moving.nii.gz", "-t", "affine.tfm", "-o", "out.nii.gz"], "name the reference image with -r"),
        ([*ok[:3], "empty", *ok[4:]], "transform empty: is a folder without a transform"),
    ):
        assert message in refused(*words), words
    assert not (folder / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("fixed.csv", "--channel 3", "--channel 3: is for images and label maps; leave it out"),
        ("fixed.csv", "-n nearest", "-n nearest: is for images and label maps; leave it out"),
        ("fixed.csv", "--tensor-axes world", "--tensor-axes world: is for images; leave it out"),
        ("moving_labels.nii.gz", "--labels --tensor-axes world", "--tensor-axes world: is for images; leave it out"),
        ("moving_labels.nii.gz", "--labels --lps", "--lps: is for points; leave it out"),
        ("moving.nii.gz", "--lps", "--lps: is for points; leave it out"),
        ("moving.nii.gz", "--error-map fixed.nii.gz", "--error-map fixed.nii.gz: is for points; leave it out"),
    ],
)
def test_options_of_another_kind_are_refused(refused, folder, monkeypatch, source, options, message):
    monkeypatch.chdir(folder)
    out = "o.csv" if source.endswith(".csv") else "o.nii.gz"
    assert message in refused("apply", source, "-t", "field.nii.gz", *options.split(), "-o", out)


def test_force_overwrites(run, folder):
    words = ["apply", folder / "moving.nii.gz", "-t", folder / "field.nii.gz", "-o", folder / "back.nii.gz", "--force"]
    assert run(*words).code == 0
    assert load(folder / "back.nii.gz").shape == SHAPE
