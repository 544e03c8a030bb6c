# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``register --fixed A B --moving C D``: several images a side, and what is done with their result."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monai_locor.io import read_displacement_field

from ..run_schema import valid_run
from .files import load, save

SHORT = {"stages": [{"factor": 2, "iterations": 1}, {"factor": 2, "iterations": 2, "spacing": 4}], "multistart": "never"}
WORDS = ["--config", "short.json", "--device", "cpu", "--outputs", "warped,forward,inverse"]


@pytest.fixture
def several(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "short.json").write_text(json.dumps(SHORT))
    for role in ("fixed", "moving"):
        save(folder / f"{role}2.nii.gz", np.sqrt(np.abs(load(folder / f"{role}.nii.gz")).astype(np.float32)))
    return ["register", "--fixed", "fixed.nii.gz", "fixed2.nii.gz", "--moving", "moving.nii.gz", "moving2.nii.gz"]


def field(path) -> np.ndarray:
    return read_displacement_field(path)[0].numpy()


@pytest.mark.slow
def test_for_real(run, several, folder):
    answer = run(*several, "--channel-weights", "1", "0.5", *WORDS, "-o", "out")
    assert answer.code in (0, 1) and "registering moving.nii.gz, moving2.nii.gz to fixed.nii.gz, fixed2.nii.gz" in answer.out
    told = valid_run(folder / "out" / "run.json")["arguments"]
    assert told["channel_weights"] == [1, 0.5] and len(told["fixed"]["list"]) == 2
    assert run("register", "--from", "out/run.json", "-o", "again", "--outputs", "forward").code == answer.code
    np.testing.assert_array_equal(field(folder / "again/forward_field.nii.gz"), field(folder / "out/forward_field.nii.gz"))
    changed = ["--channel-weights", "1", "20", "--outputs", "forward"]
    run("register", "--from", "out/run.json", "-o", "changed", *changed)
    assert not np.array_equal(field(folder / "changed/forward_field.nii.gz"), field(folder / "out/forward_field.nii.gz"))
    assert run("apply", "moving2.nii.gz", "-t", "out", "-r", "fixed.nii.gz", "-o", "moved.nii.gz").code == 0
    assert run("info", "out").code == 0


def test_report(run, several, folder):
    pytest.importorskip("matplotlib")
    run(*several, *WORDS, "-o", "out")
    assert run("report", "out").code in (0, 1) and (folder / "out" / "report.html").stat().st_size > 10_000


def test_one_image_named_by_the_options_is_one_image(run, several, folder):
    run("register", "--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz", *WORDS, "-o", "named")
    run("register", "fixed.nii.gz", "moving.nii.gz", *WORDS, "-o", "placed")
    np.testing.assert_array_equal(field(folder / "named/forward_field.nii.gz"), field(folder / "placed/forward_field.nii.gz"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fixed", "fixed.nii.gz", "none.nii", "--moving", "moving.nii.gz"], "fixed image none.nii: no such file"),
        (["moving.nii.gz", "--fixed", "fixed.nii.gz", "fixed2.nii.gz"], "FIXED moving.nii.gz: --fixed also names fixed.nii.gz"),
        (["--fixed", "fixed.nii.gz", "fixed2.nii.gz"], "give FIXED and MOVING"),
        (
            ["fixed.nii.gz", "--moving", "moving.nii.gz", "moving2.nii.gz", "--moving-channel", "1"],
            "--moving-channel 1: goes with one moving image",
        ),
        (
            ["fixed.nii.gz", "--moving", "moving.nii.gz", "moving2.nii.gz", "--outputs", "basis"],
            "--outputs basis: it needs one image per side",
        ),
        (
            ["fixed.nii.gz", "--moving", "moving.nii.gz", "moving2.nii.gz", "--channel-weights", "1"],
            "channel_weights [1.0]: 2 needed",
        ),
    ],
)
def test_refusals(refused, several, words, message, folder):
    pytest.importorskip("safetensors")
    assert message in refused("register", *words, "-o", "out") and not (folder / "out").exists()
