# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""File names in the folder of a case."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ALL_FILES", "DESCRIPTION_FILE", "LANDMARK_FILES", "image_file"]

IMAGE_STEMS = ("fixed", "moving", "fixed_mask", "moving_mask", "mask", "fixed_labels", "moving_labels", "truth", "target")
LANDMARK_FILES = ("fixed_landmarks.csv", "moving_landmarks.csv")
DESCRIPTION_FILE = "case.json"
ALL_FILES = (*(f"{stem}.nii.gz" for stem in IMAGE_STEMS), *LANDMARK_FILES, DESCRIPTION_FILE)


def image_file(folder: Path, stem: str) -> Path | None:
    """Path of an image of a case; None if the file does not exist."""
    path = folder / f"{stem}.nii.gz"
    return path if path.is_file() else None
