# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""No command replaces a file that it reads, also one that it finds beside or in what is named."""

from __future__ import annotations

import numpy as np
import pytest

from monai_locor.io import write_affine

from .files import REGISTER

ALSO = "is also an input; name another"


@pytest.fixture
def kept(short_folder):
    """The working directory with a transform in several forms; afterwards, no file may have changed."""
    (short_folder / "out").mkdir()
    write_affine(short_folder / "out" / "affine.tfm", np.eye(4))
    for name in ("run.json", "basis.json", "basis.safetensors"):
        (short_folder / "out" / name).write_text("{}")
    before = {path: path.read_bytes() for path in short_folder.rglob("*") if path.is_file()}
    yield short_folder
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "words",
    [
        ["--initial", "out/affine.tfm", "--outputs", "affine"],
        ["--initial", "[out/affine.tfm,1]", "--outputs", "affine"],
        ["--initial", "out", "--outputs", "affine"],
        ["--initial", "out/run.json", "--outputs", "warped"],
        ["--initial-basis", "out/basis", "--outputs", "basis"],
        ["--initial-basis", "out/basis.safetensors", "--outputs", "basis"],
        ["--thresholds", "out/basis.json", "--outputs", "basis"],
    ],
)
def test_register(refused, kept, words):
    assert ALSO in refused(*REGISTER[:-2], "-o", "out", "--force", *words)


def test_words_of_initial_are_no_files(refused, kept):
    """``centers`` is a word, although a folder has this name; the refusal that follows is that of the output."""
    (kept / "centers").mkdir()
    (kept / "centers" / "run.json").write_text("{}")
    assert "already exists" in refused(*REGISTER, "-o", "centers", "--initial", "centers")


@pytest.mark.parametrize(
    ("command", "target"),
    [
        ("invert aa_", "aa_1InverseWarp.nii.gz"),
        ("compose aa_", "aa_1Warp.nii.gz"),
        ("convert aa_", "aa_1Warp.nii.gz"),
        ("invert whole.h5", "whole_inverse.h5"),
        ("compose [whole.h5,1]", "whole_inverse.h5"),
    ],
)
def test_files_beside_a_transform(run, refused, folder, monkeypatch, command, target):
    monkeypatch.chdir(folder)
    for words in (["aa_", "--to", "ants"], ["whole.h5"]):
        assert run("convert", "field.nii.gz", "-o", *words).code == 0
    (folder / "whole_inverse.h5").write_bytes((folder / "whole.h5").read_bytes())
    before = (folder / target).read_bytes()
    assert ALSO in refused(*command.split(), "-o", target, "--force")
    assert (folder / target).read_bytes() == before


def test_the_record_of_a_registration(refused, kept):
    assert ALSO in refused("check", "fixed.nii.gz", "moving.nii.gz", "out", "-o", "out/run.json", "--force")


def test_files_that_are_not_there_may_be_written(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert run("convert", "field.nii.gz", "-o", "aa_", "--to", "ants").code == 0
    (folder / "aa_1InverseWarp.nii.gz").unlink()
    assert run("invert", "aa_", "-o", "aa_1InverseWarp.nii.gz").code == 0
