# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The results of a set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

    from ..geometry import SpatialTransform
    from ..registration import RegistrationResult

__all__ = ["Series", "Template"]


@dataclass(frozen=True)
class Template:
    """A template and the registrations of all images to it.

    Attributes:
        folder: output folder.
        images: file of the template by contrast.
        reference: contrast of the template that all images were registered to.
        rows: one row for each image in the order of the ids, as for a cohort, see
            :func:`monai_locor.cohort.summary.summary_row`; the pair is the template (fixed) and the image (moving).
        rounds: for each round ``shift_mm``, the mean displacement of the template; ``gains``, the gain of the sharpening by
            contrast; ``average_seconds``, the CPU time of the average; and ``excluded``, the ids of images whose registration
            failed.
    """

    folder: Path
    images: dict[str, Path]
    reference: str
    rows: list[dict[str, Any]]
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by verdict (PASS, WARN, FAIL), or by state if there is no verdict (failed)."""
        return dict(Counter(row["verdict"] or row["state"] for row in self.rows))

    @property
    def files(self) -> list[Path]:
        """The images that were made: the template of each contrast."""
        return list(self.images.values())

    @property
    def ids(self) -> list[str]:
        """Ids of the images that were registered."""
        return [row["id"] for row in self.rows if row["state"] == "done"]

    def image(self, contrast: str | None = None) -> MetaTensor:
        """The template of a contrast, ``(1, *grid)``; by default of the reference contrast."""
        from ..io import read_image

        return read_image(self.images[self.reference if contrast is None else contrast], "template")[0]

    def transform(self, name: str) -> SpatialTransform:
        """The final transform from points of the template to points of an image, with its inverse.

        Args:
            name: id of the image.

        Raises:
            InputError: if no output has the transform.
        """
        from ..geometry import Grid, SpatialTransform
        from ..io import read_transform
        from ..registration.manifest import read_run

        folder = self.folder / "pairs" / name
        found, run = read_transform(folder), read_run(folder)[1]
        if found.is_affine:
            return found
        grid = Grid.placed(run["fixed_grid"]["shape"], np.array(run["fixed_grid"]["affine"]))
        whole = found.split(grid, np.array(run["affine"]))  # beyond the template, the affine part alone
        return SpatialTransform(whole.steps, found.inverse_steps)

    @property
    def transforms(self) -> dict[str, SpatialTransform]:
        """The final transforms of all images that were registered, by id. They are read at every access."""
        return {name: self.transform(name) for name in self.ids}

    def result(self, name: str) -> RegistrationResult:
        """The final registration of an image, with both images; the template is the fixed image.

        Args:
            name: id of the image.
        """
        from ..registration import RegistrationResult

        return RegistrationResult.load(self.folder / "pairs" / name)


@dataclass(frozen=True)
class Series(Template):
    """A series whose frames are aligned to their mean.

    Attributes:
        corrected: file of the aligned frames, ``(*grid, T)``.
        mean: file of their mean.
        motion: one row for each frame, see :data:`.frames.MOTION_COLUMNS`.
    """

    corrected: Path = Path()
    mean: Path = Path()
    motion: list[dict[str, Any]] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """The files that were made: aligned frames, mean and motion."""
        return [self.corrected, self.mean, self.folder / "motion.csv"]
