# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Validation cases: folders with two images and a reference, and the scores of a displacement."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..roles import ROLES
from .case_files import ALL_FILES, DESCRIPTION_FILE, LANDMARK_FILES, image_file

if TYPE_CHECKING:
    import torch

    from ..geometry import Grid

__all__ = ["Case", "find_cases"]


@dataclass(frozen=True)
class Case:
    """A folder with ``fixed.nii.gz``, ``moving.nii.gz`` and at least one reference to score against.

    References: ``truth.nii.gz`` (the displacement on the fixed grid, as ITK reads it), evaluated inside ``mask.nii.gz`` if
    that file exists; ``fixed_landmarks.csv`` and ``moving_landmarks.csv`` (``x,y,z``, RAS mm, in the same order);
    ``fixed_labels.nii.gz`` and ``moving_labels.nii.gz``; or a ``case.json`` that names one of the studies of
    :data:`monai_locor.data.study_scores.STUDY_SCORES`. ``fixed_mask.nii.gz`` and ``moving_mask.nii.gz`` are passed to the
    registration.

    Args:
        folder: folder of the case.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def file(self, stem: str) -> Path | None:
        """Path of one of its images; None if the file does not exist."""
        return image_file(self.folder, stem)

    @cached_property
    def study(self) -> str | None:
        """Name of the study whose score applies."""
        from ..io.paths import read_json

        try:
            described = read_json(self.folder / DESCRIPTION_FILE)
        except (OSError, ValueError):
            return None
        from ..data.study_scores import STUDY_SCORES  # imports torch

        name = described.get("study") if isinstance(described, dict) else None
        return name if name in STUDY_SCORES else None

    @cached_property
    def scores(self) -> tuple[str, ...]:
        """The available scores, a subset of :data:`.scores.SCORES`. Does not read the images."""
        landmarks = all((self.folder / name).is_file() for name in LANDMARK_FILES)
        labels = all(self.file(f"{role}_labels") for role in ROLES)
        found = {"study": self.study is not None, "tre": landmarks or self.file("truth") is not None, "dice": labels}
        return tuple(name for name, there in found.items() if there)

    @cached_property
    def grid(self) -> Grid:
        """Grid of the fixed image."""
        from ..geometry import Grid
        from ..io import read_image

        return Grid.of(read_image(self.folder / "fixed.nii.gz", "fixed")[0])

    def measure(self, displacement_mm: torch.Tensor | None) -> dict[str, float]:
        """Score a displacement.

        Args:
            displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm, including the affine; None means zero displacement.

        Returns:
            The available scores: ``"study"``, the score that the study minimizes; ``"tre"``, mean target registration error,
            mm; ``"dice"``, mean over labels.

        Raises:
            InputError: if a file cannot be read or does not match the fixed image.
            ValueError: if the displacement is not on the fixed grid or not finite.
        """
        import torch

        from .case_scores import label_dice, mean_target_error, study_score

        shape = (self.grid.dims, *self.grid.shape)
        zero = torch.zeros(shape, dtype=torch.float32)
        u = zero if displacement_mm is None else displacement_mm.detach().cpu()
        if tuple(u.shape) != shape or not u.isfinite().all():
            raise ValueError(f"a displacement of {self.name} must be finite and {shape}")
        found = {}
        if self.study is not None:
            found["study"] = study_score(self.folder, self.study, u)
        if "tre" in self.scores:
            found["tre"] = mean_target_error(self.folder, self.grid, u)
        if "dice" in self.scores:
            found["dice"] = label_dice(self.folder, self.grid, u)
        return found

    def digest(self) -> str:
        """SHA-256 of the names and contents of its files."""
        total = hashlib.sha256()
        for name in ALL_FILES:
            path = self.folder / name
            if path.is_file():
                total.update(f"{name} {_sha256(path)}\n".encode())
        return total.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        return digest.hexdigest()


def find_cases(folder: str | PathLike[str], names: Sequence[str] = ()) -> list[Case]:
    """Find the cases in a folder.

    Args:
        folder: folder with one subfolder per case, see :class:`Case`.
        names: names of the cases; by default all.

    Raises:
        InputError: if there is no case, a name is missing, or a case has no reference to score against.
    """
    root = Path(folder).expanduser()
    found = sorted(path.parent.name for path in root.glob("*/fixed.nii.gz") if (path.parent / "moving.nii.gz").is_file())
    if not found:
        raise InputError(f"{root}: contains no case; a case is a subfolder with fixed.nii.gz and moving.nii.gz")
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"{root}: has no case {', '.join(missing)}; its cases are {', '.join(found)}")
    cases = [Case(root / name) for name in dict.fromkeys(names or found)]
    for case in cases:
        if not case.scores:
            raise InputError(
                f"case {case.folder}: no reference to score against; add truth.nii.gz, landmarks or label maps, or exclude "
                "the case by listing the others"
            )
    return cases
