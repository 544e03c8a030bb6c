# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A prepared image pair of a study with its annotations, in memory and as a folder of files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError, one_line
from ..geometry import Grid, warp
from ..io import check_output_dir, read_displacement_field, read_image, read_mask, write_displacement_field, write_image
from ..io.paths import atomic_path, expanded, read_json
from ..roles import ROLES
from .annotations import read_label, read_landmarks

__all__ = ["StudyCase", "read_case", "write_case"]

DESCRIPTION_FILE = "case.json"
FILE_STEMS = {  # attribute: name of its file
    "fixed": "fixed",
    "moving": "moving",
    "fixed_mask": "fixed_mask",
    "moving_mask": "moving_mask",
    "evaluation_mask": "mask",
    "fixed_labels": "fixed_labels",
    "moving_labels": "moving_labels",
    "target": "target",
    "truth": "truth",
}
POINT_KINDS = ("landmarks", "keypoints")


@dataclass(frozen=True)
class StudyCase:
    """A pair of images with its annotations.

    Args:
        study: a name in :data:`monai_locor.data.study_scores.STUDY_SCORES`.
        name: of the case, unique in its study.
        fixed, moving: ``(1, *S)``, each on its own grid.
        fixed_mask, moving_mask: ``(1, *S)``, masks for the registration.
        evaluation_mask: ``(1, *S)`` on the fixed grid, region in which the result is evaluated.
        fixed_labels, moving_labels: ``(1, *S)``, label maps on the grids of their images.
        target: ``(1, *S)`` on the fixed grid, the expected warped moving image.
        truth: ``(D, *S)`` on the fixed grid, RAS mm, the true displacement.
        points: kind (``"landmarks"``, ``"keypoints"``) to corresponding fixed and moving points, ``(N, D)`` float64, RAS mm.
        about: further JSON values.
    """

    study: str
    name: str
    fixed: MetaTensor
    moving: MetaTensor
    fixed_mask: MetaTensor | None = None
    moving_mask: MetaTensor | None = None
    evaluation_mask: MetaTensor | None = None
    fixed_labels: MetaTensor | None = None
    moving_labels: MetaTensor | None = None
    target: MetaTensor | None = None
    truth: torch.Tensor | None = None
    points: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The fixed image's grid."""
        return Grid.of(self.fixed)

    def displacement(self, displacement_mm: torch.Tensor | None) -> torch.Tensor:
        """A displacement on the fixed grid, checked; None, of a failed registration, counts as zero.

        Raises:
            ValueError: if it does not live on the fixed grid or is not finite.
        """
        shape = (self.grid.dims, *self.grid.shape)
        if displacement_mm is None:
            return torch.zeros(shape, dtype=torch.float32)
        if tuple(displacement_mm.shape) != shape or not torch.isfinite(displacement_mm).all():
            raise ValueError(f"a displacement of {self.name} must be finite and {shape}, got {tuple(displacement_mm.shape)}")
        return displacement_mm.detach().cpu().float()

    def moved(self, image: MetaTensor, displacement_mm: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """A volume in the moving image's space, sampled at the displaced fixed voxels, ``(1, *S)``, zero outside."""
        return warp(image, Grid.of(image), displacement_mm, self.grid, mode=mode)

    def need(self, *names: str) -> tuple[Any, ...]:
        """Optional parts of the case.

        Raises:
            InputError: for the first missing one.
        """
        for name in names:
            if getattr(self, name) is None:
                raise InputError(f"case {self.name} of {self.study}: has no {name}; it cannot be scored, prepare it again")
        return tuple(getattr(self, name) for name in names)


def write_case(folder: str | PathLike[str], case: StudyCase) -> Path:
    """Write a case as a folder for ``benchmarks/registration.py``.

    It holds ``fixed.nii.gz``, ``moving.nii.gz`` and, if they exist, ``fixed_mask``, ``moving_mask``, ``mask`` (the evaluation
    mask), ``fixed_labels``, ``moving_labels``, ``target`` and ``truth`` (a displacement field for ITK); points are
    ``fixed_landmarks.csv`` and so on, RAS mm. ``case.json``, which names the study, is written last.

    Raises:
        InputError: if the folder cannot be written to.
    """
    out = check_output_dir(folder)
    (out / DESCRIPTION_FILE).unlink(missing_ok=True)
    for name, stem in FILE_STEMS.items():
        path, volume = out / f"{stem}.nii.gz", getattr(case, name)
        path.unlink(missing_ok=True)  # left by an earlier preparation
        if name == "truth" and volume is not None:
            write_displacement_field(path, volume, case.grid)
        elif volume is not None:
            write_image(path, volume, Grid.of(volume), _stored(name))
    for kind, side, path in _point_files(out):
        path.unlink(missing_ok=True)
        if kind in case.points:
            with atomic_path(path) as temporary:
                points = case.points[kind][side].numpy()
                np.savetxt(temporary, points, "%.17g", ",", header="x,y,z"[: 2 * case.grid.dims - 1], comments="")
    told = {"study": case.study, "name": case.name, **case.about}
    with atomic_path(out / DESCRIPTION_FILE) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return out


def _point_files(folder: Path) -> list[tuple[str, int, Path]]:
    """Kind, fixed (0) or moving (1), and file of all points of a case."""
    sides = enumerate(ROLES)
    return [(kind, side, folder / f"{name}_{kind}.csv") for side, name in sides for kind in POINT_KINDS]


def _stored(name: str) -> str | None:
    """Voxel type of a file."""
    if name.endswith("mask"):
        return "uint8"
    return "int32" if name.endswith("labels") else None


def read_case(folder: str | PathLike[str]) -> StudyCase:
    """Read a case written by :func:`write_case`.

    Raises:
        InputError: if a required file is missing, or a file cannot be read.
    """
    root = expanded(folder, f"case {folder}")
    try:
        told = read_json(root / DESCRIPTION_FILE)
    except (OSError, ValueError) as error:
        raise InputError(f"case {root}: has no valid {DESCRIPTION_FILE} ({one_line(error)}); prepare it again") from error
    if not isinstance(told, dict) or not {"study", "name"} <= set(told):
        raise InputError(f"case {root}: its {DESCRIPTION_FILE} names no study and case; prepare it again")
    paths = {part: root / f"{stem}.nii.gz" for part, stem in FILE_STEMS.items()}
    found = {part: _read(part, path) for part, path in paths.items() if part in ("fixed", "moving") or path.is_file()}
    files = {(kind, side): path for kind, side, path in _point_files(root) if path.is_file()}
    points = {
        kind: (read_landmarks(files[kind, 0], "fixed"), read_landmarks(files[kind, 1], "moving"))
        for kind in POINT_KINDS
        if (kind, 0) in files and (kind, 1) in files
    }
    about = {key: value for key, value in told.items() if key not in ("study", "name")}
    return StudyCase(study=str(told["study"]), name=str(told["name"]), points=points, about=about, **found)


def _read(name: str, path: Path) -> Any:
    role = "moving" if name.startswith("moving") else "fixed"
    if name == "truth":
        return read_displacement_field(path)[0]
    if name.endswith("mask"):
        return read_mask(path, role)
    return read_label(path, role) if name.endswith("labels") else read_image(path, role)[0]
