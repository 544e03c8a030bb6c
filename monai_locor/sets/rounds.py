# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The rounds of a template: register all images to it, average, and move it to the mean pose and shape."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..cohort.api import Cohort, run_cohort
from ..cohort.folder import CohortFolder, signature
from ..cohort.pairs import CohortPair
from ..data.datalist import refuse
from ..errors import InputError
from ..geometry import AffineStep, FieldStep, Grid, SpatialTransform, Step
from ..io import read_displacement_field, write_affine, write_image
from ..io.grids import read_grid
from ..io.paths import FORWARD, atomic_path, write_json
from ..registration import RegistrationConfig
from ..registration.manifest import read_run, sha256
from ..tensors import lengths
from .averages import exponential_mm, mean_affine, mean_grid, mean_velocity
from .folder import RECORD_FILE, TEMPLATE_FILE, image_name, round_folder
from .mean_image import mean_image
from .subjects import Subject

__all__ = ["Rounds", "Space"]

logger = logging.getLogger(__name__)

MIN_USABLE_SHARE = 0.5  # of the registrations of a round


@dataclass(frozen=True, eq=False)
class Space:
    """The template after a round.

    Attributes:
        folder: its folder, with its images and the initial transforms of the next round.
        record: content of ``average.json``: ``affines``, for each id the affine map from the template to the image;
            ``shift_mm``, the mean displacement of the template in this round; ``gains`` of the sharpening by contrast;
            ``average_seconds``, CPU time of the average; and ``excluded`` images.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def image(self) -> Path:
        """The template of the reference contrast."""
        return self.folder / TEMPLATE_FILE

    def initial(self, name: str) -> Path:
        """File of the initial transform of an image in the next round."""
        return self.folder / "initial" / f"{name}.tfm"

    def affine(self, name: str) -> np.ndarray:
        """The affine map from the template to an image, ``(D + 1, D + 1)``, RAS mm."""
        return np.array(self.record["affines"][name])


@dataclass(frozen=True, eq=False)
class Rounds:
    """The rounds of a template.

    Attributes:
        root: output folder.
        subjects: images in the order of their ids.
        reference: contrast of the image that all images are registered to.
        config: settings of the registrations.
        start: transform model of the first registrations: ``"rigid"``, ``"similarity"`` or ``"affine"``.
        sharpen: see :func:`.mean_image.mean_image`.
        voxel_size: of the template, mm; see :func:`.averages.mean_grid`.
        mask: mask of the template in all rounds.
        options: options of :func:`monai_locor.cohort.run_cohort`.
    """

    root: Path
    subjects: Sequence[Subject]
    reference: str
    config: RegistrationConfig
    start: str = "affine"
    sharpen: bool = True
    voxel_size: float | None = None
    mask: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, number: int) -> Path:
        """Folder of a round."""
        return round_folder(self.root, number)

    @property
    def deformable(self) -> bool:
        """Whether the rounds estimate deformations."""
        return self.config.transform == "deformable"

    def first(self) -> Space:
        """Register all images to one of them without a deformation, and move their mean to the mean pose."""
        target = next(subject for subject in self.subjects if subject.contrast == self.reference)
        others = [subject for subject in self.subjects if subject is not target]
        pairs = [
            CohortPair(subject.id, target.image, subject.image, fixed_mask=target.mask, moving_mask=subject.mask)
            for subject in others
        ]
        config, folder = self.config.with_transform(self.start), self.folder(0)
        found = run_cohort(pairs, folder, preset=config, outputs=["affine"], title="start", **self.options)
        usable = self._usable(found, {target.id})
        inputs = self._inputs(usable, folder)
        known = self._known(folder, inputs)
        if known is not None:
            return known
        still = np.eye(read_grid(target.image).dims + 1)
        affines = {subject.id: still if subject is target else _affine(folder, subject.id) for subject in usable}
        back = np.linalg.inv(mean_affine(list(affines.values())))
        affines = {subject.id: affines.get(subject.id, still) @ back for subject in self.subjects}
        grids = [read_grid(subject.image, f"subject {subject.id}:") for subject in usable]
        grid = mean_grid(grids, [affines[subject.id] for subject in usable], self.voxel_size)

        def transform(subject: Subject) -> SpatialTransform:
            return SpatialTransform.of_affine(affines[subject.id])

        return self._written(folder, inputs, affines, grid, transform, 0.0)

    def unmoved(self, grid: Grid) -> Space:
        """The mean of images that are roughly aligned in world coordinates, such as the frames of a series."""
        still, folder = np.eye(grid.dims + 1), self.folder(0)
        folder.mkdir(parents=True, exist_ok=True)
        affines = {subject.id: still for subject in self.subjects}
        inputs = self._inputs(self.subjects, folder)
        known = self._known(folder, inputs)
        return known or self._written(folder, inputs, affines, grid, lambda _: SpatialTransform.of_affine(still), 0.0)

    def next(self, number: int, space: Space) -> Space:
        """Register all images to the template and move it to the mean pose and shape of the images.

        With the maps ``A_i exp(v_i)`` from the template to the images, M the mean of the affine maps and v that of the
        velocities, ``exp(-v) M^-1`` maps points of the new template to points of the present one. Then the maps from the new
        template, ``A_i exp(v_i) exp(-v) M^-1``, have the mean pose and, up to commutators, the mean shape.
        """
        outputs = ["affine", "forward", "velocity"] if self.deformable else ["affine"]
        folder = self.folder(number)
        found = run_cohort(
            self.pairs(space, space.image), folder, preset=self.config, outputs=outputs, title=f"round {number}", **self.options
        )
        usable = self._usable(found)
        inputs = self._inputs(usable, folder)
        known = self._known(folder, inputs)
        if known is not None:
            return known
        grid = read_grid(space.image)
        affines = {subject.id: _affine(folder, subject.id) for subject in usable}
        # the mean pose is that of all images, so that an excluded one does not move it
        affines = {s.id: affines.get(s.id, space.affine(s.id)) for s in self.subjects}
        pose = AffineStep(np.linalg.inv(mean_affine(list(affines.values()))))
        back = (pose, *self._shape(folder, usable))
        affines = {name: matrix @ pose.matrix for name, matrix in affines.items()}
        moved = lengths(SpatialTransform(back).displacement(grid))

        def transform(subject: Subject) -> SpatialTransform:
            return SpatialTransform((*back, *self._steps(folder, subject)))

        return self._written(folder, inputs, affines, grid, transform, float(moved.double().mean()))

    def final(self, space: Space, outputs: Sequence[str] | None) -> Cohort:
        """Copy the last template to the output folder and register all images to it.

        Args:
            space: the last template.
            outputs: see :func:`.api.template`.

        Returns:
            the registrations.

        Raises:
            InputError: if images are registered to another template and the option ``force`` is not set; nothing is replaced.
        """
        if not self.options.get("force"):
            other = [f"pair {name} is finished with another template" for name in self._outdated(space)]
            refuse(other, f"output folder {self.root}", "name another folder, or add --force (force=True) to redo them")
        self._place(space, self.reference)
        pairs = self.pairs(space, self.root / TEMPLATE_FILE, labels=True)
        found = run_cohort(pairs, self.root, preset=self.config, outputs=outputs, title="final", **self.options)
        for contrast in space.record["gains"]:  # the others last, because settings can be refused so far
            self._place(space, contrast)
        return found

    def _outdated(self, space: Space) -> list[str]:
        """Ids of the images that are registered to another template."""
        folder, current = CohortFolder(self.root), sha256(space.image)
        done = [subject.id for subject in self.subjects if folder.record(subject.id) is not None]
        return [name for name in done if _fixed_hash(folder.pair(name)) not in (current, None)]

    def _place(self, space: Space, contrast: str) -> None:
        """Copy the template of a contrast to the output folder, unless it is there."""
        name = image_name(contrast, self.reference)
        source, target = space.folder / name, self.root / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)

    def pairs(self, space: Space, fixed: Path, labels: bool = False) -> list[CohortPair]:
        """The pairs of the template and each image, started from the affine maps of the previous round."""
        return [
            CohortPair(
                subject.id,
                str(fixed),
                subject.image,
                fixed_mask=self.mask,
                moving_mask=subject.mask,
                moving_labels=subject.labels if labels else None,
                initial=str(space.initial(subject.id)),
            )
            for subject in self.subjects
        ]

    def _usable(self, found: Cohort, known: Collection[str] = ()) -> list[Subject]:
        """The images whose registration succeeded.

        Args:
            found: the registrations of a round.
            known: ids of images that were not registered because their transform is known.

        Raises:
            InputError: if fewer than half, or fewer than two, succeeded.
        """
        good = {row["id"] for row in found.rows if row["state"] == "done" and row["verdict"] != "FAIL"} | set(known)
        bad = [subject.id for subject in self.subjects if subject.id not in good]
        where = found.folder / "summary.html"
        if len(good) < max(2, MIN_USABLE_SHARE * len(self.subjects)):
            raise InputError(f"{len(bad)} of {len(self.subjects)} registrations failed or have the verdict FAIL; see {where}")
        if bad:
            text = "left out of the average, because their registration failed or has the verdict FAIL: %s; see %s"
            logger.warning(text, ", ".join(bad), where)
        return [subject for subject in self.subjects if subject.id in good]

    def _shape(self, folder: Path, usable: Sequence[Subject]) -> tuple[Step, ...]:
        """The exponential of minus the mean velocity; nothing without deformations."""
        if not self.deformable:
            return ()
        files = [CohortFolder(folder).pair(subject.id) / "velocity.nii.gz" for subject in usable]
        grid = read_grid(files[0])
        mean = mean_velocity(read_displacement_field(file, velocity=True)[0] for file in files)
        return (FieldStep(exponential_mm(-mean, grid), grid),)

    def _steps(self, folder: Path, subject: Subject) -> tuple[Step, ...]:
        """The map from the template of a round to an image; outside the template, only its affine part acts."""
        matrix, place = _affine(folder, subject.id), CohortFolder(folder).pair(subject.id)
        if not self.deformable:
            return (AffineStep(matrix),)
        field, grid = read_displacement_field(place / FORWARD)
        return SpatialTransform.of_field(field, grid).split(grid, matrix).steps

    def _inputs(self, usable: Sequence[Subject], folder: Path) -> dict[str, Any]:
        """Everything that determines the average of a round, as plain values that can be compared with stored ones."""
        files = {}
        for subject in usable:
            record = CohortFolder(folder).pair(subject.id) / "pair.json"
            files[subject.id] = [
                subject.contrast,
                *signature(subject.image),
                *(signature(str(record)) if record.exists() else []),
            ]
        return {"version": __version__, "sharpen": self.sharpen, "voxel_size": self.voxel_size, "files": files}

    def _known(self, folder: Path, inputs: Mapping[str, Any]) -> Space | None:
        """The average of an earlier run with the same inputs, or None."""
        path = folder / RECORD_FILE
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return Space(folder, record) if record.get("inputs") == inputs and record["reference"] == self.reference else None

    def _written(
        self,
        folder: Path,
        inputs: Mapping[str, Any],
        affines: Mapping[str, np.ndarray],
        grid: Grid,
        transform: Callable[[Subject], SpatialTransform],
        shift_mm: float,
    ) -> Space:
        """Average the images of each contrast and write the result; the record is complete when all else is."""
        began = time.process_time()
        record: dict[str, Any] = {"affines": {name: matrix.tolist() for name, matrix in affines.items()}}
        write_json(folder / RECORD_FILE, record)  # incomplete, but shows whose folder it is
        members = [subject for subject in self.subjects if subject.id in inputs["files"]]
        gains = {}
        for contrast in sorted({subject.contrast for subject in members}):
            own = [subject for subject in members if subject.contrast == contrast]
            mean = mean_image(((subject, transform(subject)) for subject in own), grid, self.sharpen)
            write_image(folder / image_name(contrast, self.reference), mean.values, grid)
            gains[contrast] = mean.gain
        (folder / "initial").mkdir(exist_ok=True)
        record |= {
            "inputs": dict(inputs),
            "reference": self.reference,
            "shift_mm": shift_mm,
            "gains": gains,
            "average_seconds": round(time.process_time() - began, 2),
            "excluded": [subject.id for subject in self.subjects if subject.id not in inputs["files"]],
        }
        space = Space(folder, json.loads(json.dumps(record)))
        for subject in self.subjects:
            write_affine(space.initial(subject.id), affines[subject.id])
        write_json(folder / RECORD_FILE, record)
        return space


def _fixed_hash(folder: Path) -> str | None:
    """The hash of the fixed image of a registration; None if its ``run.json`` does not tell it."""
    with suppress(InputError, KeyError):
        found: str | None = read_run(folder)[1]["arguments"]["fixed"].get("sha256")
        return found
    return None


def _affine(folder: Path, name: str) -> np.ndarray:
    """The affine part of a registration of a round."""
    return np.array(read_run(CohortFolder(folder).pair(name))[1]["affine"])
