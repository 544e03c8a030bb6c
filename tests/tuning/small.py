# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Small cases in a plane, registered in a fraction of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from monai_locor.geometry import Grid
from monai_locor.io import write_displacement_field, write_image

GRID = Grid((20, 18), np.diag([2.0, 2.0, 1.0]))
SHIFT = (2.0, -1.0)  # mm, from fixed to moving points
BASE = {
    "stages": [{"factor": 2, "iterations": 3}, {"factor": 2, "iterations": 2, "spacing": 8}],
    "multistart": "never",
    "initialization": "world",
}


def blobs(points: np.ndarray) -> np.ndarray:
    """``(...)`` of ``(..., 2)``, mm."""
    centers = ((12.0, 10.0, 5.0), (26.0, 22.0, 6.0), (14.0, 26.0, 4.0))
    return sum(np.exp(-((points[..., 0] - x) ** 2 + (points[..., 1] - y) ** 2) / (2 * s**2)) for x, y, s in centers)


def write_plane_case(folder: Path, *, truth: bool = True, labels: bool = False, landmarks: bool = False, shift=SHIFT) -> Path:
    """Two contrasts, shifted, and the requested references."""
    folder.mkdir(parents=True)
    points = GRID.points()
    anatomy = {"fixed": blobs(points + np.array(shift)), "moving": blobs(points)}
    for role, values in anatomy.items():
        image = np.cos(2 * values) if role == "fixed" else values
        write_image(folder / f"{role}.nii.gz", torch.from_numpy(image).float()[None], GRID)
        if labels:
            write_image(
                folder / f"{role}_labels.nii.gz", torch.from_numpy((values > 0.5).astype(np.int32))[None], GRID, "int32"
            )
    if truth:
        u = torch.tensor(shift, dtype=torch.float32).view(2, 1, 1).expand(2, *GRID.shape)
        write_displacement_field(folder / "truth.nii.gz", u.contiguous(), GRID)
    if landmarks:
        fixed = np.array([[12.0, 10.0], [20.0, 20.0]])
        for role, places in (("fixed", fixed), ("moving", fixed + np.array(shift))):
            lines = ["x,y", *(f"{x},{y}" for x, y in places)]
            (folder / f"{role}_landmarks.csv").write_text("\n".join(lines) + "\n")
    return folder
