# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The command that searches settings."""

from __future__ import annotations

import json

import pytest

from monai_locor.registration import PRESETS

from ..tuning.small import BASE, write_plane_case

pytest.importorskip("optuna")
pytest.importorskip("sklearn")


@pytest.fixture
def asked(monkeypatch):
    """The arguments of the search, instead of a search."""
    found: dict = {}

    def tune(cases, output, **options):
        found.update(options, cases=[case.name for case in cases], output=output)
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_locor.tuning.tune", tune)
    return found


def test_options_reach_the_search(run, asked, tmp_path):
    for name in ("a", "b"):
        write_plane_case(tmp_path / name)
    words = ["--trials", 7, "--minutes", 2.5, "--workers", 3, "--device", "cuda:0,cuda:1", "--limit", 60, "--seed", 4]
    words += [
        "--parameters",
        "bending_weight,kernel_sigma",
        "--range",
        "kernel_sigma=0.5:2",
        "--score",
        "tre",
        "--sampler",
        "tpe",
    ]
    words += ["--set", "num_basis=3", "--stages", "fast", "--finalists", 2, "--repeats", 6]
    answer = run("tune", tmp_path, "b", "-o", tmp_path / "out", *words)
    assert answer.code == 130 and "run the same command again" in answer.out
    base = asked.pop("base")
    assert base.num_basis == 3 and base.stages == PRESETS["fast"].stages
    assert asked == {
        "cases": ["b"],
        "output": tmp_path / "out",
        "parameters": ["bending_weight", "kernel_sigma"],
        "ranges": {"kernel_sigma": (0.5, 2.0)},
        "device": ["cuda:0", "cuda:1"],
        "progress": False,
        "trials": 7,
        "minutes": 2.5,
        "finalists": 2,
        "repeats": 6,
        "workers": 3,
        "limit": 60,
        "score": "tre",
        "sampler": "tpe",
        "seed": 4,
    }
    assert run("tune", tmp_path, "-o", tmp_path / "out", "--json").json["error"] == "interrupted"
    assert asked["cases"] == ["a", "b"] and asked["parameters"] is None and asked["trials"] == 100


def test_what_is_wrong_is_said_in_one_line(refused, tmp_path):
    write_plane_case(tmp_path / "a")
    out = ("-o", tmp_path / "out")
    assert "contains no case" in refused("tune", tmp_path / "a", *out)
    assert "has no case z; its cases are a" in refused("tune", tmp_path, "z", *out)
    assert "--range kernel_sigma=1: give NAME=LOW:HIGH" in refused("tune", tmp_path, *out, "--range", "kernel_sigma=1")
    assert "similarity must be one of locor, " in refused("tune", tmp_path, *out, "--similarity", "ssd")
    assert "unknown parameters: sigma; locor has bending_weight" in refused("tune", tmp_path, *out, "--parameters", "sigma")
    assert "--minutes: must be a positive number, got '0'" in refused("tune", tmp_path, *out, "--minutes", "0")
    assert not (tmp_path / "out").exists()


def test_without_optuna(refused, tmp_path, monkeypatch):
    import sys

    write_plane_case(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'monai-locor[tune]'" in refused("tune", tmp_path, "-o", tmp_path / "out")


@pytest.mark.slow
def test_a_search(run, tmp_path):
    write_plane_case(tmp_path / "cases" / "a")
    (tmp_path / "base.json").write_text(json.dumps(BASE))
    words = ["-o", tmp_path / "out", "--config", tmp_path / "base.json", "--trials", 2, "--finalists", 1, "--repeats", 2]
    answer = run("tune", tmp_path / "cases", *words, "--workers", 0)
    assert answer.code == 0 and "2 trials on a; without registration TRE, mm 2.236" in answer.out
    found = run("tune", tmp_path / "cases", *words, "--workers", 0, "--json").json
    assert found["trials"] == 2 and found["found"]["mean"] < found["without_registration"]
    assert (found["preset"] is None) == ("no preset is written" in answer.out)
    moved = run("register", *(tmp_path / "cases" / "a" / f"{r}.nii.gz" for r in ("fixed", "moving")), "-o", tmp_path / "r",
                "--config", found["preset"] or tmp_path / "base.json")  # fmt: skip
    assert moved.code in (0, 1), moved.err
