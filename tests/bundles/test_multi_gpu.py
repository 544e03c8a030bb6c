# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Training in several processes: the same as in one with the joint batch, one writer, and errors in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ..forked import ranks, run_forked
from .small_bundle import BUNDLE, CONFIGS, NETWORK

TRAIN, MULTI_TRAIN = ["train.json"], ["train.json", "multi_gpu_train.json"]
EVALUATE, MULTI_EVALUATE = ["train.json", "evaluate.json"], ["train.json", "evaluate.json", "multi_gpu_evaluate.json"]


@pytest.fixture(scope="module")
def datalist(tmp_path_factory) -> str:
    """Subjects in two contrasts, with labels."""
    folder = tmp_path_factory.mktemp("subjects")
    subjects = []
    for i in range(5):
        anatomy = gaussian_filter(np.random.default_rng(i).normal(size=(20, 20, 20)), 3)
        anatomy = anatomy / anatomy.std()
        volumes = {"fixed": np.tanh(anatomy), "moving": np.exp(-(anatomy**2)), "label": (anatomy > 0.5)}
        for kind, data in volumes.items():
            nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([2.0, 2, 2, 1])), folder / f"{i}_{kind}.nii.gz")
        files = {"fixed": "fixed", "moving": "moving", "fixed_label": "label", "moving_label": "label"}
        subjects.append({"name": f"s{i}", **{key: f"{i}_{kind}.nii.gz" for key, kind in files.items()}})
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": subjects[:2], "validation": subjects[2:4], "testing": subjects[2:]}))
    return str(path)


def start(configs: list[str], cwd: Path, processes: int = 0, **given: Any) -> list[subprocess.CompletedProcess[str]]:
    """Run the bundle in this many processes, each with the environment that torchrun gives it, or without."""
    words = line(configs, **given)
    return ranks("monai.bundle", words, cwd, processes) if processes else [run_forked("monai.bundle", words, cwd)]


def line(configs: list[str], **given: Any) -> list[str]:
    """Words of the bundle's command line."""
    arguments = [
        a for key, value in given.items() for a in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]
    return ["run", "--config_file", json.dumps([str(CONFIGS / name) for name in configs]), "--device", "cpu", *arguments]


def launch(configs: list[str], cwd: Path, processes: int, **given: Any) -> list[subprocess.CompletedProcess[str]]:
    """The same by torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "monai.bundle"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BUNDLE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, *launcher, *line(configs, **given)]
    return [subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)]


def options(datalist: str, out: str, **changes: Any) -> dict[str, Any]:
    given = {
        "datalist": datalist,
        "ckpt_dir": f"{out}/models",
        "output_dir": f"{out}/eval",
        "tf_dir": "none",
        "preset": {"preset": "default", "initialization": "world"},
        "alignment": "start",
        "spacing": 2.0,
        "network_def": NETWORK,
        "registration_network#divisible": 2,
        "registration_network#head_std": 0.01,
    }
    return {**given, **changes}


@pytest.mark.slow
def test_two_processes_are_one_with_the_joint_batch(datalist, tmp_path):
    """The same steps from the same weights; windows are the same in all processes, shifted at random as they are."""
    given = {"epochs": 2, "val_interval": 2, "pairs_per_epoch": 4, "augment": "false"}
    runs = {
        "one": start(TRAIN, tmp_path, **options(datalist, "one", **given, batch_size=2)),
        "two": launch(MULTI_TRAIN, tmp_path, 2, **options(datalist, "two", **given, tf_dir="curves")),
    }
    for name, (done,) in runs.items():
        assert done.returncode == 0, done.stderr
        assert {p.name for p in (tmp_path / name / "models").iterdir()} == {"model.pt", "last.pt"}
        assert done.stdout.count("best so far, saved") == 1
    one, two = (torch.load(tmp_path / name / "models" / "last.pt", weights_only=True) for name in ("one", "two"))
    assert one.keys() == two.keys() and one["trainer"] == two["trainer"] and one["trainer"]["iteration"] == 4
    for part in ("model", "loss"):
        assert one[part].keys() == two[part].keys()
        values, others = (torch.cat([run[part][key].double().flatten() for key in one[part]]) for run in (one, two))
        # what the network is shown of the loss has no scale, and Adam's first steps have none: rounding grows a little, on some
        # processors to 4e-4 in one of 864 weights
        torch.testing.assert_close(others, values, atol=1e-3, rtol=1e-2)
        assert ((others - values).abs() > 3e-4 + 1e-2 * values.abs()).double().mean() < 1e-2
    assert two["best"]["best"] == pytest.approx(one["best"]["best"], abs=1e-3)
    assert len(list((tmp_path / "curves").iterdir())) == 1  # one process writes

    scores = {}
    for name, configs, processes in (("one", EVALUATE, 0), ("two", MULTI_EVALUATE, 2)):
        more = {"ckpt_path": "two/models/model.pt", "output_dir": f"scores_{name}"}
        done = start(configs, tmp_path, processes, **options(datalist, name, **more))
        assert all(each.returncode == 0 for each in done), done
        rows = (tmp_path / f"scores_{name}" / "metrics.csv").read_text().splitlines()
        scores[name] = {key: float(value) for key, value in (row.split(",") for row in rows)}
        table = (tmp_path / f"scores_{name}" / "dice_raw.csv").read_text().splitlines()
        assert len({line.split(",")[0] for line in table if "_to_" in line}) == 6  # every pair, and once
    assert scores["two"] == pytest.approx(scores["one"], rel=1e-6) and {"dice", "loss"} <= scores["one"].keys()


@pytest.mark.slow
def test_resumed_in_two_processes(datalist, tmp_path):
    given = {"pairs_per_epoch": 4, "augment": "true"}
    for name, epochs, resume in (("whole", 2, "false"), ("parts", 1, "false"), ("parts", 2, "true")):
        done = start(MULTI_TRAIN, tmp_path, 2, **options(datalist, name, **given, epochs=epochs, resume=resume))
        assert all(each.returncode == 0 for each in done), done
    whole, parts = (torch.load(tmp_path / name / "models" / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for part in ("model", "loss"):
        for key, value in whole[part].items():
            assert torch.equal(parts[part][key], value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "change", "text"),
    [
        (0, {}, "torchrun"),
        (2, {"datalist": "nowhere.json"}, "nowhere.json"),
        (3, {}, "2 pairs to train with for 3 processes"),
    ],
)
def test_errors_are_one_line(datalist, tmp_path, processes, change, text):
    for done in start(MULTI_TRAIN, tmp_path, processes, **{**options(datalist, "out"), **change}):
        assert done.returncode == 2, done.stderr
        (line,) = (line for line in done.stderr.splitlines() if "error: " in line)
        assert text in line
    assert list(tmp_path.iterdir()) == []
