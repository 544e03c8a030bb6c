# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Small folders in the layouts of the published data sets, of phantoms on grids that differ."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor import InputError

SHAPE = (20, 18, 16)
GRID = np.array([[-2.0, 0, 0, 20], [0, 2.0, 0, -15], [0, 0, 2.5, -18], [0, 0, 0, 1]])
CENTERS = {1: (6, 5, 5), 2: (13, 6, 6), 3: (6, 12, 9), 4: (13, 12, 9)}


def save(path: Path, values: np.ndarray, affine: np.ndarray = GRID, dtype: type = np.float32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(dtype), affine), path)
    return path


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def organs(shift: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """Four boxes, labels 1 to 4."""
    out = np.zeros(SHAPE)
    for label, center in CENTERS.items():
        out[tuple(slice(c + s - 2, c + s + 3) for c, s in zip(center, shift))] = label
    return out


def intensities(labels: np.ndarray, of_label: tuple[float, ...], air: float) -> np.ndarray:
    """An image of labels in a body that leaves two voxels of air all around, without noise."""
    out = np.full(SHAPE, air)
    inner = tuple(slice(2, -2) for _ in SHAPE)
    out[inner] = np.array(of_label)[labels[inner].astype(int)]
    return out


def shifted(voxels: tuple[float, float, float], affine: np.ndarray = GRID, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    """A displacement by whole voxels, ``(3, *shape)``, RAS mm."""
    mm = affine[:3, :3] @ np.array(voxels, dtype=float)
    return torch.from_numpy(mm).float().reshape(3, 1, 1, 1).expand(3, *shape).clone()


def slow_dice(first: np.ndarray, second: np.ndarray, label: int) -> float:
    counts = [0, 0, 0]
    for voxel in product(*map(range, first.shape)):
        a, b = first[voxel] == label, second[voxel] == label
        counts = [counts[0] + a, counts[1] + b, counts[2] + (a and b)]
    return 2 * counts[2] / (counts[0] + counts[1])


def refusal(function, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def learn2reg(root: Path) -> Path:
    """Two subjects with two modalities; the moving organs lie one voxel further along the first axis."""
    name = "PhantomMRCT"
    listed: dict[str, list] = {"0": [], "1": []}
    for subject in (1, 2):
        for modality, shift in enumerate(((0, 0, 0), (1, 0, 0))):
            file = f"{name}_{subject:04d}_{modality:04d}.nii.gz"
            labels = organs(shift)
            save(root / "imagesTr" / file, intensities(labels, (10, 40, 60, 80, 90), 0))
            save(root / "labelsTr" / file, labels, dtype=np.uint8)
            save(root / "masksTr" / file, intensities(labels, (1,) * 5, 0), dtype=np.uint8)
            points = np.array([np.add(c, shift) for c in CENTERS.values()]) + 0.25
            (root / "keypointsTr").mkdir(exist_ok=True)
            np.savetxt(root / "keypointsTr" / file.replace(".nii.gz", ".csv"), points, delimiter=",", fmt="%.3f")
            listed[str(modality)].append(
                {"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}", "mask": f"./masksTr/{file}"}
            )
    pairs = [{side: f"./imagesTr/{name}_{n:04d}_{m:04d}.nii.gz" for m, side in enumerate(("fixed", "moving"))} for n in (1, 2)]
    content = {
        "name": name,
        "labels": {str(m): {"0": "background", **{str(n): f"organ {n}" for n in CENTERS}} for m in (0, 1)},
        "modality": {"0": "MR", "1": "CT"},
        "tensorImageShape": {"0": list(SHAPE)},
        "training": listed,
        "test": [],
        "training_paired_images": pairs,
        "registration_val": pairs[1:],
        "registration_test": [],
    }
    path = root / f"{name}_dataset.json"
    path.write_text(json.dumps(content))
    return path
