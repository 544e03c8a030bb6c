# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A tiny case with a known answer, and the benchmark scripts, imported as when they are run."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHAPE = (16, 18, 14)
FIXED = np.array([[0.0, -2.0, 0.0, 20.0], [2.0, 0.0, 0.0, -10.0], [0.0, 0.0, 3.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
SHIFT = np.array([2.0, -4.0, 3.0])  # RAS mm; whole voxels: the moving image is the fixed one, on a grid that is shifted
MOVING = FIXED.copy()
MOVING[:3, 3] += SHIFT
TWO_ITERATIONS = {
    "stages": [{"factor": 1, "iterations": 1}, {"factor": 1, "iterations": 1, "spacing": 12}],
    "multistart": "never",
    "intersubject": "never",
}


def scripts(monkeypatch: pytest.MonkeyPatch, *names: str) -> SimpleNamespace:
    """The modules of these names, without leading underscores, imported as when a script beside them is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for path in BENCHMARKS.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return SimpleNamespace(**{name.strip("_"): importlib.import_module(name) for name in names})


def measure_here(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> list[Any]:
    """Let these scripts measure in this process, which has imported everything, instead of in fresh ones; returns the specs."""
    helper, specs = importlib.import_module("_measure"), []
    monkeypatch.setattr(helper, "_limit_memory", lambda: None)
    first = importlib.import_module("_ours")
    monkeypatch.setattr(first, "TINY", {**first.TINY, "multistart": "never", "intersubject": "never"})

    def measure(spec: Any, python: str = sys.executable) -> Any:
        specs.append(spec)
        threads = torch.get_num_threads()
        try:
            found = helper._child(helper.Spec(**json.loads(json.dumps(dataclasses.asdict(spec)))))
        except ModuleNotFoundError as error:
            return helper.Measured(problem=f"not run ({error})")
        finally:
            torch.set_num_threads(threads)
        return helper.Measured.of(found)

    for module in modules:
        monkeypatch.setattr(module, "measure", measure)
    return specs


def save(path: Path, data: np.ndarray, affine: np.ndarray, intent: str = "none") -> None:
    """Write an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_intent(intent)
    nib.save(image, path)


def save_field(path: Path, field: np.ndarray, affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> None:
    """A field ``(X, Y, Z, 3)``, RAS mm, or one vector for all voxels."""
    lps = np.broadcast_to(field, (*shape, 3)) * np.array([-1, -1, 1])
    save(path, lps[..., None, :].astype(np.float32), affine, "vector")


def write_blob_case(folder: Path, labels: bool = False) -> Path:
    """A blob with inner structure in two contrasts, a mask and the truth; with labels on request."""
    x, y, z = np.indices(SHAPE)
    inside = ((x - 7) / 5) ** 2 + ((y - 9) / 6) ** 2 + ((z - 6) / 4) ** 2 < 1
    image = np.where(inside, 100 + 10 * np.sin(x) + 20 * (y > 9), 5).astype(np.float32)
    parts = (inside * np.where(y > 9, 7, 3)).astype(np.int16)
    parts[0, 0, 0] = 9  # too small to count
    for role, affine in (("fixed", FIXED), ("moving", MOVING)):
        save(folder / f"{role}.nii.gz", image if role == "fixed" else 200 - image, affine)
        if labels:
            save(folder / f"{role}_labels.nii.gz", parts, affine)
    save(folder / "mask.nii.gz", inside.astype(np.uint8), FIXED)
    save_field(folder / "truth.nii.gz", SHIFT, FIXED)
    return folder
