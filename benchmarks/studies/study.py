# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Base class of the studies: a data set as published, its splits, cases and score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar

import torch

from monai_locor.data.study_case import StudyCase
from monai_locor.data.study_scores import STUDY_SCORES
from monai_locor.errors import InputError

__all__ = ["Study"]


class Study(ABC):
    """A data set with its splits, preparation and score.

    Args:
        folder: with the data as published.

    Raises:
        InputError: if the folder does not exist.
    """

    name: ClassVar[str]  #: in messages, files and :data:`studies.STUDIES`
    source: ClassVar[str]  #: origin of the data, for messages
    splits: Mapping[str, tuple[str, ...]]  #: split to names of cases
    measures: ClassVar[tuple[str, ...]] = ()  #: keys of a score to show in tables

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise InputError(f"{self.name} data {self.folder}: no such folder; {self.source}")

    def names(self, split: str) -> tuple[str, ...]:
        """Cases of a split.

        Raises:
            InputError: for an unknown split.
        """
        if split not in self.splits:
            raise InputError(f"{self.name}: has no split {split!r}; choose from {', '.join(self.splits)}")
        return self.splits[split]

    @abstractmethod
    def files(self, name: str) -> dict[str, Path]:
        """Every file that a case needs, by its part, whether it exists or not."""

    def missing(self, name: str) -> list[Path]:
        """Missing files of a case."""
        return [path for path in self.files(name).values() if not path.is_file()]

    def load(self, name: str) -> StudyCase:
        """Read and prepare a case.

        Raises:
            InputError: for an unknown case, or if one of its files is missing or cannot be used.
        """
        self._check_name(name)
        missing = self.missing(name)
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise InputError(f"{self.name} case {name}: {missing[0]} is missing{more}; {self.source}")
        return self._load(name, self.files(name))

    @abstractmethod
    def _load(self, name: str, files: Mapping[str, Path]) -> StudyCase:
        """Read and prepare a case whose files all exist."""

    @classmethod
    def score(cls, case: StudyCase, displacement_mm: torch.Tensor | None) -> dict[str, float]:
        """Measure a result by :data:`monai_locor.data.study_scores.STUDY_SCORES`.

        Args:
            case: of this study.
            displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm; None, of a failed registration, counts as zero.

        Returns:
            the measures of the paper; ``"score"`` is minimized in tuning.

        Raises:
            InputError: if the case lacks something that is measured.
            ValueError: if the displacement does not live on the fixed grid or is not finite.
        """
        return STUDY_SCORES[cls.name](case, displacement_mm)

    def _check_name(self, name: str) -> None:
        known = [case for cases in self.splits.values() for case in cases]
        if name not in known:
            raise InputError(f"{self.name}: has no case {name!r}; its cases are {', '.join(dict.fromkeys(known))}")

    def _first(self, candidates: Sequence[str]) -> Path:
        """The first existing file of several candidates below the folder, else the first candidate."""
        paths = [self.folder / candidate for candidate in candidates]
        return next((path for path in paths if path.is_file()), paths[0])
