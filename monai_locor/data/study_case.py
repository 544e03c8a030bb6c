# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One pair of a study, ready to be registered and scored, in memory and as a folder of files."""

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
from ..io.paths import atomic_path
from .annotations import read_label, read_landmarks

__all__ = ["StudyCase", "read_case", "write_case"]

ABOUT = "case.json"
FILES = {  # attribute: name of its file
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
POINTS = ("landmarks", "keypoints")


@dataclass(frozen=True)
class StudyCase:
    """A pair of images and what is known of it.

    Args:
        study: a name in :data:`monai_locor.data.study_scores.STUDY_SCORES`.
        name: of the case, unique in its study.
        fixed, moving: ``(1, *S)``, each on its own grid.
        fixed_mask, moving_mask: ``(1, *S)``, where the images count in the registration.
        evaluation_mask: ``(1, *S)`` on the fixed grid, where the result counts.
        fixed_labels, moving_labels: ``(1, *S)``, label maps on the grids of their images.
        target: ``(1, *S)`` on the fixed grid, what the moving image should look like there.
        truth: ``(D, *S)`` on the fixed grid, RAS mm, the displacement that a perfect registration finds.
        points: kind (``"landmarks"``, ``"keypoints"``) to corresponding fixed and moving points, ``(N, D)`` float64, RAS mm.
        about: what else there is to say, JSON values.
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
        """A displacement on the fixed grid, checked; none, of a registration that failed, counts as zero.

        Raises:
            ValueError: when it does not live on the fixed grid or is not finite.
        """
        shape = (self.grid.dims, *self.grid.shape)
        if displacement_mm is None:
            return torch.zeros(shape, dtype=torch.float32)
        if tuple(displacement_mm.shape) != shape or not torch.isfinite(displacement_mm).all():
            raise ValueError(f"a displacement of {self.name} must be finite and {shape}, got {tuple(displacement_mm.shape)}")
        return displacement_mm.detach().cpu().float()

    def moved(self, image: MetaTensor, displacement_mm: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """A volume of the moving image's space, read at the displaced fixed voxels, ``(1, *S)``, zero outside."""
        return warp(image, Grid.of(image), displacement_mm, self.grid, mode=mode)

    def need(self, *names: str) -> tuple[Any, ...]:
        """Parts of the case that may be missing.

        Raises:
            InputError: for the first that is.
        """
        for name in names:
            if getattr(self, name) is None:
                raise InputError(f"case {self.name} of {self.study}: has no {name}; it cannot be scored, prepare it again")
        return tuple(getattr(self, name) for name in names)


def write_case(folder: str | PathLike[str], case: StudyCase) -> Path:
    """Write a case as the folder that ``benchmarks/registration.py`` takes.

    ``fixed.nii.gz``, ``moving.nii.gz`` and, where there are any, ``fixed_mask``, ``moving_mask``, ``mask`` (where the result
    counts), ``fixed_labels``, ``moving_labels``, ``target`` (what the moving image should look like) and ``truth`` (as ITK
    reads it); points as ``fixed_landmarks.csv`` and so on, RAS mm. ``case.json`` says of what study it is and is written last.

    Raises:
        InputError: when the folder cannot be written to.
    """
    out = check_output_dir(folder)
    (out / ABOUT).unlink(missing_ok=True)
    for name, stem in FILES.items():
        path, volume = out / f"{stem}.nii.gz", getattr(case, name)
        path.unlink(missing_ok=True)  # of an earlier preparation
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
    with atomic_path(out / ABOUT) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return out


def _point_files(folder: Path) -> list[tuple[str, int, Path]]:
    """Kind, fixed (0) or moving (1), and file of all points that a case may have."""
    sides = enumerate(("fixed", "moving"))
    return [(kind, side, folder / f"{name}_{kind}.csv") for side, name in sides for kind in POINTS]


def _stored(name: str) -> str | None:
    """Type of the voxels in a file."""
    if name.endswith("mask"):
        return "uint8"
    return "int32" if name.endswith("labels") else None


def read_case(folder: str | PathLike[str]) -> StudyCase:
    """Read what :func:`write_case` wrote.

    Raises:
        InputError: when a file is missing that every case has, or one cannot be read.
    """
    root = Path(folder).expanduser()
    try:
        told = json.loads((root / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"case {root}: has no valid {ABOUT} ({one_line(error)}); prepare it again") from error
    if not isinstance(told, dict) or not {"study", "name"} <= set(told):
        raise InputError(f"case {root}: its {ABOUT} names no study and case; prepare it again")
    paths = {part: root / f"{stem}.nii.gz" for part, stem in FILES.items()}
    found = {part: _read(part, path) for part, path in paths.items() if part in ("fixed", "moving") or path.is_file()}
    files = {(kind, side): path for kind, side, path in _point_files(root) if path.is_file()}
    points = {
        kind: (read_landmarks(files[kind, 0], "fixed"), read_landmarks(files[kind, 1], "moving"))
        for kind in POINTS
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
