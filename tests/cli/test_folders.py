# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Every folder that ``register`` writes is a transform, in all commands and in Python."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import FieldStep, Grid, SpatialTransform
from monai_locor.io import read_transform, write_affine, write_displacement_field, write_transform

from ..parameters import mostly_slow
from .files import AFFINE, SHAPE, SHIFT, load

GRID = Grid(SHAPE, AFFINE)
FIELD = torch.tensor(SHIFT).reshape(3, 1, 1, 1).expand(3, *SHAPE)


def fill(out, kind: str) -> None:
    """What ``register --outputs KIND`` leaves, of a transform by SHIFT."""
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"inputs": {}, "seconds": 1, "verdict": None}))
    whole = SpatialTransform((FieldStep(FIELD, GRID),), (FieldStep(-FIELD, GRID),))
    if kind in ("forward", "both"):
        write_displacement_field(out / "forward_field.nii.gz", FIELD, GRID)
    if kind in ("inverse", "both"):
        write_displacement_field(out / "inverse_field.nii.gz", -FIELD, GRID)
    if kind == "composite":
        write_transform(out / "transform.h5", whole)
    if kind == "ants":
        write_transform(out / "ants_", whole, format="ants", fixed=GRID)
    if kind in ("affine", "both"):
        matrix = np.eye(4)
        matrix[:3, 3] = SHIFT
        write_affine(out / "affine.tfm", matrix)


WARPS = ("ants_1Warp.nii.gz", "ants_1InverseWarp.nii.gz")
KINDS = ["both", "forward", "inverse", "composite", "ants", "affine"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", mostly_slow(["run.json", ""]))
def test_python(tmp_path, kind, name):
    fill(tmp_path / "out", kind)
    found = read_transform(tmp_path / "out" / name, fixed=GRID, moving=GRID)
    middle = GRID.center[None]
    np.testing.assert_allclose(found.points(middle), middle + SHIFT, atol=1e-3)
    np.testing.assert_allclose(found.inverse().points(middle), middle - SHIFT, atol=1e-2)
    known = kind in ("both", "inverse", "composite", "ants", "affine")
    assert (found.known_inverse is not None) == known


@pytest.mark.parametrize("kind", mostly_slow(["both", "ants", "forward", "inverse", "composite", "affine"], 2))
def test_every_command(run, folder, kind):
    out, fixed = folder / "out", folder / "fixed.nii.gz"
    fill(out, kind)
    answer = run("apply", folder / "fixed.csv", "-t", out, "-o", folder / "moved.csv", "-q")
    assert answer.code == 0, answer
    moved = np.loadtxt(folder / "moved.csv", delimiter=",", skiprows=1, usecols=(0, 1, 2))
    np.testing.assert_allclose(moved, np.add([[8, 10, 12], [10, 12, 15]], SHIFT), atol=1e-3)
    assert run("apply", folder / "moving.nii.gz", "-t", out, "-r", fixed, "-o", folder / "seen.nii.gz").code == 0
    np.testing.assert_allclose(load(folder / "seen.nii.gz")[3:9, 3:9, 3:7], 2 - load(fixed)[3:9, 3:9, 3:7], atol=1e-3)
    for name in (out, out / "run.json"):
        found = run("info", name, "-r", fixed, "--json").json["files"][0]
        assert found["what"] == "transform" and found["run"]["seconds"] == 1
    for words in (
        ["invert", out, "-r", fixed, "-o", folder / "back.nii"],
        ["compose", out, f"[{out},1]", "-r", fixed, "-o", folder / "still.nii"],
        ["jacobian", out, "-r", fixed],
        ["convert", out, "-o", folder / "c.h5"],
        ["evaluate", "-t", out, "--fixed", fixed, "--moving", folder / "moving.nii.gz"],
    ):
        answer = run(*words)
        assert answer.code == 0, (words, answer)
    assert np.abs(load(folder / "still.nii")[4:8, 3:9, 3:7]).max() < 0.02


@pytest.mark.parametrize(("kind", "gone", "left"), [("affine", (), "affine.tfm"), ("ants", WARPS, "ants_0GenericAffine.mat")])
def test_the_affine_part_alone_is_said(run, folder, kind, gone, left):
    fill(folder / "out", kind)
    for name in gone:
        (folder / "out" / name).unlink()
    answer = run("info", folder / "out")
    assert answer.code == 0 and f"only {left} is there" in answer.err


def test_folders_without_a_transform(refused, run, tmp_path):
    fill(tmp_path / "out", "nothing")
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n")
    for name in ("out", "out/run.json"):
        message = refused("apply", tmp_path / "p.csv", "-t", tmp_path / name, "-o", tmp_path / "q.csv")
        assert "run.json, but no transform beside it; repeat the registration with monai-locor register --from" in message
        assert "repeat the registration" in refused("info", tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: is a folder without a transform"):
        read_transform(tmp_path / "empty")
