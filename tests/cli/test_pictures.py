# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pictures on the command line: colors, sizes and pixels from the files to the outputs."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_locor.io import write_affine
from monai_locor.io.grids import read_grid

SHIFT = (6, -4)  # pixels, x and y, from the fixed to the moving anatomy
WHITE = (240, 230, 220)
NO_STEPS = {"stages": [{"factor": 1, "iterations": 0, "spacing": 4}], "multistart": "never", "max_pixels": 400}


@pytest.fixture
def sections(tmp_path) -> Path:
    """Two sections, the moving one shifted by SHIFT; landmarks; the shift as a transform; settings that change nothing."""
    y, x = np.mgrid[:64, :72]
    amount = np.exp(-((x - 34) ** 2 + (y - 30) ** 2) / 200) * (np.hypot(x - 34, y - 30) < 20)
    fixed = np.rint(np.array(WHITE) * 10 ** -(amount[..., None] * [0.2, 0.7, 0.4])).astype(np.uint8)
    Image.fromarray(fixed).save(tmp_path / "fixed.png")
    Image.fromarray(np.roll(fixed, SHIFT[::-1], (0, 1))).save(tmp_path / "moving.png")
    (tmp_path / "fixed.csv").write_text(" ,X,Y\n1,20,25\n2,40.5,30\n")
    (tmp_path / "moving.csv").write_text(" ,X,Y\n2,46.5,26\n1,26,21\n")
    matrix = np.eye(3)
    matrix[:2, 2] = -np.array(SHIFT)  # RAS
    write_affine(tmp_path / "shift.tfm", matrix)
    (tmp_path / "none.json").write_text(json.dumps(NO_STEPS))
    return tmp_path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def registered(sections, run) -> Path:
    out = sections / "out"
    answer = run(
        *("register", sections / "fixed.png", sections / "moving.png", "-o", out, "--config", sections / "none.json"),
        *("--initial", sections / "shift.tfm", "--outputs", "warped,warped-fixed,forward,inverse", "--json"),
        *("--pixels", "--fixed-points", sections / "fixed.csv", "--moving-image", sections / "moving.png"),
    )
    assert answer.code in (0, 1), answer.err
    return out


def test_register(sections, registered):
    """Fields lie on a coarser grid; pictures have all their pixels and colors, points their pixels and labels."""
    names = {path.name for path in registered.iterdir()}
    warped = {"warped.png", "warped_fixed.png", "moving_on_fixed.png"}
    assert names == {*warped, "fixed_on_moving.csv", "forward_field.nii.gz", "inverse_field.nii.gz", "run.json"}
    assert nib.load(registered / "forward_field.nii.gz").shape[:2] == (18, 16)
    for name, expected in (("warped.png", "fixed.png"), ("warped_fixed.png", "moving.png")):
        np.testing.assert_allclose(pixels(registered / name), pixels(sections / expected), atol=1)
    assert (registered / "moving_on_fixed.png").read_bytes() == (registered / "warped.png").read_bytes()
    rows = (registered / "fixed_on_moving.csv").read_text().splitlines()
    assert rows[0] == "x,y,label"
    found = np.array([[float(v) for v in row.split(",")] for row in rows[1:]])
    np.testing.assert_allclose(found, [[26, 21, 1], [46.5, 26, 2]], atol=1e-3)


def test_apply_and_evaluate(sections, registered, run):
    args = ("-t", registered, "-r", sections / "fixed.png")
    for name in ("a.png", "a.tif", "a.nii.gz"):
        answer = run("apply", sections / "moving.png", *args, "-o", sections / name)
        assert answer.code == 0, answer.err
    np.testing.assert_array_equal(pixels(sections / "a.png"), pixels(registered / "warped.png"))
    np.testing.assert_array_equal(pixels(sections / "a.tif"), pixels(sections / "a.png"))
    volume = nib.load(sections / "a.nii.gz")
    assert volume.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(volume.dataobj)[:, :, 0].swapaxes(0, 1), pixels(sections / "a.png"))
    images = (sections / "fixed.png", sections / "moving.png")
    answer = run(
        "apply", sections / "moving.csv", "-t", registered, "--inverse", "-o", sections / "back.csv", "--pixels", *images[::-1]
    )
    assert answer.code == 0, answer.err
    table = np.loadtxt(sections / "back.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table, [[40.5, 30, 2], [20, 25, 1]], atol=1e-3)
    points = ("--fixed-points", sections / "fixed.csv", "--moving-points", sections / "moving.csv")
    found = run("evaluate", "-t", registered, "--fixed", images[0], "--moving", images[1], *points, "--pixels", "--json").json
    assert found["tre_mm"]["before"]["mean"] == pytest.approx(np.hypot(*SHIFT), abs=1e-6)
    assert found["tre_mm"]["after"]["max"] < 1e-3


def test_labels_keep_their_values(sections, registered, run):
    labels = np.zeros((64, 72), np.uint8)
    labels[20:30, 20:40], labels[30:40, 25:40] = 3, 200
    Image.fromarray(labels).save(sections / "labels.png")
    args = ("-t", registered, "-r", sections / "fixed.png")
    expected = np.roll(labels, (-SHIFT[1], -SHIFT[0]), (0, 1))
    for name, options in (("named.png", ["--labels"]), ("recognized.png", [])):
        answer = run("apply", sections / "labels.png", *args, *options, "-o", sections / name)
        assert answer.code == 0 and ("looks like a label map" in answer.err) == (not options)
        np.testing.assert_array_equal(pixels(sections / name), expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pixels", "fixed.png", "moving.png", "--lps"], "--pixels fixed.png"),
        (["--pixels", "fixed.png", "nothing.png"], "image of --pixels nothing.png: no such file"),
    ],
)
def test_apply_refuses(sections, refused, monkeypatch, words, message):
    monkeypatch.chdir(sections)
    assert message in refused("apply", "fixed.csv", "-t", "shift.tfm", "-o", "o.csv", *words)


def test_label_maps_are_not_written_with_loss(sections, refused, monkeypatch):
    monkeypatch.chdir(sections)
    assert "must end in .nii, .nii.gz, .nrrd, .mha, .png, .tif, .tiff, .bmp" in refused(
        *("apply", "fixed.png", "-t", "shift.tfm", "-r", "fixed.png", "--labels", "-o", "o.jpg")
    )


def test_evaluate_needs_the_images(sections, refused):
    points = ("--fixed-points", sections / "fixed.csv", "--moving-points", sections / "moving.csv")
    assert "--pixels: needs --fixed, --moving" in refused("evaluate", *points, "--pixels")


def test_the_field_covers_the_whole_picture(registered, sections):
    """Also the pixels of the last blocks, which have fewer rows."""
    field, image = read_grid(registered / "forward_field.nii.gz"), read_grid(sections / "fixed.png")
    assert (field.extent >= image.extent - 1e-4).all()
