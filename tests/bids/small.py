# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A small BIDS dataset of phantoms, and results of its pairs, without a registration."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from monai_locor import RegistrationResult
from monai_locor.geometry import Grid
from monai_locor.registration.manifest import sha256

from ..phantoms import turned
from ..report.results import result_with

GRID = turned(0.3, (2.0, 2.5, 3.0), (10, 9, 8))
SHIFT_MM = (2.0, -1.0, 0.5)


def write_dataset(root: Path, *names: str, **description: object) -> list[Path]:
    """A raw dataset with an image for each path relative to it; returns the files."""
    root.mkdir(parents=True, exist_ok=True)
    about = {"Name": "Phantoms", "BIDSVersion": "1.10.0", "DatasetType": "raw", "Authors": ["A", "B"], **description}
    (root / "dataset_description.json").write_text(json.dumps(about))
    (root / "README.md").write_text("Phantoms for the tests of derivatives.\n")
    paths = [root / name for name in names]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).uniform(1, 2, GRID.shape).astype(np.float32)
        image = nib.Nifti1Image(values, GRID.affine)
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, path)
    return paths


def write_result(folder: Path, fixed: Path, moving: Path, **changes: object) -> RegistrationResult:
    """An output folder of ``register`` for two images on :data:`GRID`; the transform is a shift by :data:`SHIFT_MM`."""
    from monai_locor.io import read_image

    images = {role: read_image(path, role)[0] for role, path in (("fixed", fixed), ("moving", moving))}
    shift = torch.tensor(SHIFT_MM).reshape(3, 1, 1, 1).expand(3, *GRID.shape).clone()
    arguments = {role: {"path": str(path), "sha256": sha256(path)} for role, path in (("fixed", fixed), ("moving", moving))}
    result = result_with(*images.values(), shift, **{"arguments": arguments, **changes})
    result.save(folder)
    return result


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of modification and content of all files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def points() -> np.ndarray:
    """Some voxels of :data:`GRID`, ``(N, 3)`` mm."""
    grid: Grid = GRID
    return grid.points()[2:-2, 2:-2, 2:-2].reshape(-1, 3)
