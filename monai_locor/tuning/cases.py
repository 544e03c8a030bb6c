# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Cases to tune on: folders of two images and what is known of them, and how good a displacement is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import torch

    from ..geometry import Grid

__all__ = ["Case", "find_cases"]

STEMS = ("fixed", "moving", "fixed_mask", "moving_mask", "mask", "fixed_labels", "moving_labels", "truth", "target")
LANDMARKS = ("fixed_landmarks.csv", "moving_landmarks.csv")
ABOUT = "case.json"


@dataclass(frozen=True)
class Case:
    """A folder with ``fixed.nii.gz``, ``moving.nii.gz`` and at least one thing that tells good from bad.

    ``truth.nii.gz`` (the displacement on the fixed grid, as ITK reads it), which counts in ``mask.nii.gz`` if there is one;
    ``fixed_landmarks.csv`` and ``moving_landmarks.csv`` (``x,y,z``, RAS mm, in the same order); ``fixed_labels.nii.gz`` and
    ``moving_labels.nii.gz``; or a ``case.json`` that names one of the studies of :data:`monai_locor.data.STUDIES`.
    ``fixed_mask.nii.gz`` and ``moving_mask.nii.gz`` are given to the registration.

    Args:
        folder: of the case.
    """

    folder: Path

    @property
    def name(self) -> str:
        """That of the folder."""
        return self.folder.name

    def file(self, stem: str) -> Path | None:
        """One of its images, if it is there."""
        path = self.folder / f"{stem}.nii.gz"
        return path if path.is_file() else None

    @cached_property
    def study(self) -> str | None:
        """The study whose score it is measured by."""
        try:
            told = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        from ..data import STUDIES  # imports torch

        name = told.get("study") if isinstance(told, dict) else None
        return name if name in STUDIES else None

    @cached_property
    def scores(self) -> tuple[str, ...]:
        """Which of :data:`SCORES` can be told, without reading the images."""
        landmarks = all((self.folder / name).is_file() for name in LANDMARKS)
        labels = all(self.file(f"{role}_labels") for role in ("fixed", "moving"))
        found = {"study": self.study is not None, "tre": landmarks or self.file("truth") is not None, "dice": labels}
        return tuple(name for name, there in found.items() if there)

    @cached_property
    def grid(self) -> Grid:
        """Of the fixed image."""
        from ..geometry import Grid
        from ..io import read_image

        return Grid.of(read_image(self.folder / "fixed.nii.gz", "fixed")[0])

    def measure(self, displacement_mm: torch.Tensor | None) -> dict[str, float]:
        """How good a displacement is.

        Args:
            displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm, the affine included; None is no displacement.

        Returns:
            of what the case knows: ``"study"``, the score that its study minimizes; ``"tre"``, mean target registration error,
            mm; ``"dice"``, mean over labels.

        Raises:
            InputError: when a file cannot be read or does not fit the fixed image.
            ValueError: when the displacement does not live on the fixed grid or is not finite.
        """
        from .measuring import measured

        return measured(self, displacement_mm)

    def digest(self) -> str:
        """What identifies all its files: a hash of their names and contents."""
        total = hashlib.sha256()
        for name in (*(f"{stem}.nii.gz" for stem in STEMS), *LANDMARKS, ABOUT):
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
    """Cases in a folder.

    Args:
        folder: each case is a folder in it, see :class:`Case`.
        names: of the cases, by default all.

    Raises:
        InputError: when there is none, one of the names is missing, or nothing is known by which to score one.
    """
    root = Path(folder).expanduser()
    found = sorted(path.parent.name for path in root.glob("*/fixed.nii.gz") if (path.parent / "moving.nii.gz").is_file())
    if not found:
        raise InputError(f"{root}: holds no case; a case is a folder in it with fixed.nii.gz and moving.nii.gz")
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"{root}: has no case {', '.join(missing)}; its cases are {', '.join(found)}")
    cases = [Case(root / name) for name in dict.fromkeys(names or found)]
    for case in cases:
        if not case.scores:
            raise InputError(
                f"case {case.folder}: nothing tells how good a result is; it needs truth.nii.gz, landmarks or label maps, or "
                "leave it out by naming the others"
            )
    return cases
