# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pairs of stained sections with corresponding landmarks, as 2-D cases.

A stain is a picture ``NAME.jpg`` with ``NAME_landmarks.csv``: a header, then number, x and y, in pixels of the scan. All
tools get the same image: 255 minus the luminance, so that the background is dark. A pixel of the picture is 1 mm, hence an
error in mm is one in pixels.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

SCAN_PIXELS = 10.0  # of the landmarks' scale in a pixel of the picture


def read_landmarks(path: Path) -> dict[int, np.ndarray]:
    """Number to position ``(2,)`` in pixels of the picture."""
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    return {int(number): np.array([x, y]) / SCAN_PIXELS for number, x, y in rows}


def read_stain(path: Path) -> np.ndarray:
    """A picture as ``(X, Y)``, dark background, 0 to 255."""
    from PIL import Image

    with Image.open(path) as picture:
        return 255.0 - np.asarray(picture.convert("L"), dtype=np.float32).T


def write_pair(data: Path, fixed: str, moving: str, folder: Path) -> Path:
    """Write the case of two stains; its fixed image last, as a case without one is not complete."""
    folder.mkdir(parents=True, exist_ok=True)
    points = {role: read_landmarks(data / f"{name}_landmarks.csv") for role, name in (("fixed", fixed), ("moving", moving))}
    common = [number for number in points["fixed"] if number in points["moving"]]
    for role in points:
        world = np.stack([points[role][number] for number in common])
        np.savetxt(folder / f"{role}_landmarks.csv", world, "%.17g", ",", header="x,y", comments="")
    for role, name in (("moving", moving), ("fixed", fixed)):
        nib.save(nib.Nifti1Image(read_stain(data / f"{name}.jpg"), np.eye(4)), folder / f"{role}.nii.gz")
    return folder


def readers_distance(data: Path, stain: str) -> float:
    """Median distance between the landmarks of two readers of a stain, pixels of the picture."""
    first, second = (read_landmarks(data / f"{stain}_landmarks{end}.csv") for end in ("", "_second_reader"))
    return float(np.median([np.linalg.norm(first[number] - second[number]) for number in first if number in second]))
