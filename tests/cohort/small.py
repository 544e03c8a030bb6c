# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Cohorts of tiny images, and a stand-in for the process that registers a pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_locor.cohort import CohortPair

#: Answers like :mod:`monai_locor.cohort.child`, without torch. The file name of the fixed image says how.
STAND_IN = """
import json, os, sys, time
from pathlib import Path
print("ready", flush=True)
for line in sys.stdin:
    words = json.loads(line)["words"]
    kind, output = Path(words[1]).name.split(".")[0].rstrip("0123456789"), Path(words[4])
    with open(Path(__file__).with_name("asked.txt"), "a") as asked:
        print(output.name.rpartition(".")[0], *words[5:], file=asked)
    if kind == "hang":
        time.sleep(60)
    if kind == "crash":
        sys.exit("out of luck")
    if kind == "bad":
        print(json.dumps({"code": 2, "values": {"error": "fixed image: is constant"}, "log": "warning: odd"}), flush=True)
        continue
    output.mkdir(parents=True)
    (output / "run.json").write_text("{}")
    values = {
        "command": "register", "folder": str(output), "seconds": 1.5,
        "verdict": {"status": "PASS", "reasons": [], "measures": {"nmi_before": 1.1, "nmi_after": 1.25}},
        "jacobian": {"folding_percent": 0.0, "min": 0.5, "max": 1.5}, "displacement_mm": {"mean": 2.0, "max": 4.123456},
    }
    print(json.dumps({"code": 0, "values": values, "log": ""}), flush=True)
"""


def save_image(path: Path, values: np.ndarray | None = None) -> Path:
    """Write a small NIfTI image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32) if values is None else values, np.diag([3.0, 3, 3, 1])), path)
    return path


def pairs_of(folder: Path, names: Sequence[str]) -> list[CohortPair]:
    """Pairs whose ids are the names; each has a fixed image of its name."""
    moving = str(save_image(folder / "moving.nii"))
    return [CohortPair(name, str(save_image(folder / f"{name}.nii")), moving) for name in names]


def anatomy(seed: int, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Random blobs as a pair of two modalities, the second one shifted by a voxel, each ``(size, size, size)``."""
    rng, x = np.random.default_rng(seed), np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1)
    values = np.zeros((size,) * 3)
    for _ in range(12):
        center, width = rng.uniform(0.25 * size, 0.75 * size, 3), rng.uniform(2, 4)
        values += rng.uniform(-1, 1) * np.exp(-((x - center) ** 2).sum(-1) / (2 * width**2))
    return values.astype(np.float32), np.cos(2 * np.roll(values, 1, 0)).astype(np.float32)


def asked(folder: Path) -> list[list[str]]:
    """The questions to the stand-in in a folder: id of the pair and options."""
    path = folder / "asked.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def failure(output: Path, name: str) -> dict:
    """The record of a failed pair."""
    found: dict = json.loads((output / "failed" / f"{name}.json").read_text())
    return found
