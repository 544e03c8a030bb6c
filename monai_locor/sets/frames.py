# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Alignment of the frames of a series to their mean."""

from __future__ import annotations

import dataclasses
import filecmp
import os
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..cohort.folder import CohortFolder
from ..errors import InputError
from ..geometry import Grid, SpatialTransform, apply_affine, warped
from ..io import write_image
from ..io.image_source import load_source
from ..io.masks import mask_on_grid
from ..io.paths import expanded
from ..registration import RegistrationConfig
from ..registration.manifest import read_run
from ..report.summary import write_summary
from ..tensors import lengths, plain
from .api import Preset, check_rounds, described, running
from .folder import TEMPLATE_FILE
from .results import Series, Template
from .rounds import Rounds
from .subjects import Subject

__all__ = ["INTERPOLATIONS", "MOTION_COLUMNS", "motion_row", "rotation_angles", "series"]

FRAMES_FOLDER = Path("rounds", "frames")  # in the output folder
FILES = ("corrected.nii.gz", "mean.nii.gz", "motion.csv")  # likewise
INTERPOLATIONS = ("bilinear", "bspline", "lanczos")
#: columns of ``motion.csv``, and their meaning
MOTION_COLUMNS = {
    "frame": "number of the frame, from 0",
    "translation_x_mm": "displacement of the center of the field of view from the mean to the frame, RAS",
    "translation_y_mm": "",
    "translation_z_mm": "",
    "rotation_x_deg": "rotation about the axes of the world, in the order x, y, z",
    "rotation_y_deg": "",
    "rotation_z_deg": "",
    "displacement_mm": "mean displacement of the voxels in the mask from the mean to the frame",
    "step_mm": "mean displacement of these voxels from the previous frame",
    "verdict": "PASS, WARN or FAIL; empty if the registration failed and the frame is not moved",
}


def series(
    image: str | PathLike[str],
    output: str | PathLike[str],
    *,
    mask: str | PathLike[str] | None = None,
    transform: str = "rigid",
    rounds: int = 2,
    interpolation: str = "bilinear",
    preset: Preset = "fast",
    outputs: Iterable[str] | None = None,
    **options: Any,
) -> Series:
    """Align the frames of a series, such as fMRI, diffusion or dynamic contrast, to their mean.

    All frames are registered to the mean of the unaligned frames, and then to the mean of the aligned ones. They are
    interpolated once, from their own voxels. The mean keeps the mean pose of the frames. Frames may differ in contrast.

    Run the same call again after an interruption: finished registrations are skipped. A frame whose registration fails is
    written as it is.

    Args:
        image: file with several frames, ``(*grid, T)``.
        output: output folder. It receives ``corrected.nii.gz``, the aligned frames with the time axis of the series;
            ``mean.nii.gz``, their mean; ``motion.csv``, see :data:`MOTION_COLUMNS`; ``template.nii.gz``, the mean that the
            frames were registered to; and the final registrations in ``pairs/NNNN``, as for a cohort. The frames themselves
            are in ``rounds/frames``, uncompressed.
        mask: mask of the region that is aligned, on any grid.
        transform: ``"rigid"``, ``"similarity"``, ``"affine"`` or ``"deformable"``.
        rounds: number of times that all frames are registered to a mean.
        interpolation: of the aligned frames: ``"bilinear"``, ``"bspline"`` or ``"lanczos"``.
        preset: settings, see :func:`monai_locor.register`. There is no search for other orientations.
        outputs: outputs of the final registrations, in addition to the affine map and, with deformations, both fields.
        options: see :func:`.api.template`.

    Raises:
        InputError: if the series, a setting or the output folder cannot be used, or if most registrations of a round fail.
        ImportError: if ``dask.distributed`` is not installed; the message names the extra.
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}")
    frames = load_source(image, "series", "all")[1]
    if len(frames) < 2:
        raise InputError(f"series {os.fspath(image)}: has one frame; give a file with several")
    settings = RegistrationConfig.of(preset).with_transform(transform)
    settings = dataclasses.replace(settings, multistart="never", initialization="world")
    needed = ["affine", "forward", "inverse"] if settings.transform == "deformable" else ["affine"]
    outputs = list(dict.fromkeys([*needed, *(outputs or ())]))
    grid, named = Grid.of(frames), None if mask is None else str(expanded(mask, f"mask {mask}").absolute())
    weight = torch.ones(1, *grid.shape) if named is None else mask_on_grid(named, "series", grid)
    check_rounds(rounds, settings)
    width = max(4, len(str(len(frames) - 1)))
    names = [f"{number:0{width}d}" for number in range(len(frames))]
    with running(output, names, [TEMPLATE_FILE, *FILES], rounds - 1, settings, outputs, options) as (root, of_cohort):
        listed = _written_frames(frames, names, grid, root, force=of_cohort["force"])
        work = Rounds(root, listed, "", settings, sharpen=False, mask=named, options=of_cohort)
        spaces = [work.unmoved(grid)]
        for number in range(1, rounds):
            spaces.append(work.next(number, spaces[-1]))
        rows = work.final(spaces[-1], outputs).rows
        return _corrected(described(work, spaces, rows), frames, weight, interpolation)


def _written_frames(frames: MetaTensor, names: Sequence[str], grid: Grid, root: Path, force: bool) -> list[Subject]:
    """Each frame as a file in the output folder; those that are there are left alone, so that they have not changed.

    Raises:
        InputError: if a frame is there with another content and ``force`` is not set; nothing is replaced.
    """
    folder, work = root / FRAMES_FOLDER, CohortFolder(root / "rounds").work
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, frame in zip(names, plain(frames), strict=True):
        path, new = folder / f"{name}.nii", work / f"{name}.nii"
        write_image(new, frame[None], grid)
        if path.exists() and filecmp.cmp(path, new, shallow=False):
            new.unlink()
        elif path.exists() and not force:
            remedy = "name another folder, or add --force (force=True) to replace it"
            raise InputError(f"output folder {root}: {path} is the frame of another series; {remedy}")
        else:
            os.replace(new, path)
        found.append(Subject(name, str(path)))
    return found


def _corrected(found: Template, frames: MetaTensor, weight: torch.Tensor, interpolation: str) -> Series:
    """Align the frames; write them, their mean and their motion."""
    grid, out = Grid.of(frames), torch.empty(frames.shape, dtype=torch.float32)
    files = [found.folder / name for name in FILES]
    motion: list[dict[str, Any]] = []
    before: torch.Tensor | None = None
    for row, frame, target in zip(found.rows, plain(frames), out, strict=True):
        transform = _transform(found, row, grid.dims)
        shift = transform.displacement(grid)
        finite = torch.isfinite(frame)
        target.copy_(warped(torch.where(finite, frame, 0)[None], grid, shift, grid, interpolation)[0])
        motion.append(motion_row(row, _affine_of(found, row, grid.dims), grid, _mean_lengths(shift, before, weight)))
        before = shift
    write_image(files[0], out, grid, said=frames.meta)
    write_image(files[1], out.mean(0, dtype=torch.float64).float()[None], grid)
    write_summary(files[2], motion)
    fields = {item.name: getattr(found, item.name) for item in dataclasses.fields(found)}
    return Series(**fields, corrected=files[0], mean=files[1], motion=motion)


def _transform(found: Template, row: Mapping[str, Any], dims: int) -> SpatialTransform:
    """The transform from the mean to a frame; the identity if there is none."""
    return found.transform(row["id"]) if row["state"] == "done" else SpatialTransform.of_affine(np.eye(dims + 1))


def _affine_of(found: Template, row: Mapping[str, Any], dims: int) -> np.ndarray:
    """Its affine part."""
    return np.array(read_run(found.folder / "pairs" / row["id"])[1]["affine"]) if row["state"] == "done" else np.eye(dims + 1)


def _mean_lengths(shift: torch.Tensor, before: torch.Tensor | None, weight: torch.Tensor) -> tuple[float, float]:
    """The mean lengths of a displacement and of its difference from the one before, mm; zero without one before."""
    change = torch.zeros_like(shift) if before is None else shift - before
    own, step = (float((lengths(u).double() * weight[0]).sum() / weight.sum()) for u in (shift, change))
    return own, step


def motion_row(row: Mapping[str, Any], matrix: np.ndarray, grid: Grid, moved: tuple[float, float]) -> dict[str, Any]:
    """The motion of a frame.

    Args:
        row: its row of the cohort.
        matrix: affine map from the mean to the frame, ``(D + 1, D + 1)``, RAS mm.
        grid: grid of the series.
        moved: mean displacement from the mean and from the previous frame, mm.

    Returns:
        see :data:`MOTION_COLUMNS`; a 2-D series has no translation along z, and no rotations about x and y.
    """
    translation = apply_affine(matrix, grid.center) - grid.center
    left, _, right = np.linalg.svd(matrix[:-1, :-1])
    angles = rotation_angles(left @ right)
    values = {f"translation_{axis}_mm": value for axis, value in zip("xyz", translation, strict=False)}
    values.update({f"rotation_{axis}_deg": value for axis, value in zip("xyz"[-len(angles) :], angles, strict=True)})
    values.update({"displacement_mm": moved[0], "step_mm": moved[1]})
    rounded = {name: round(float(value), 5) for name, value in values.items()}
    return {"frame": int(row["id"]), **rounded, "verdict": row["verdict"]}


def rotation_angles(rotation: np.ndarray) -> np.ndarray:
    """The angles about x, y and z, in this order, of a rotation ``(3, 3)``; the angle of one ``(2, 2)``; degrees."""
    if len(rotation) == 2:
        return np.degrees([np.arctan2(rotation[1, 0], rotation[0, 0])])
    about_y = np.arcsin(np.clip(-rotation[2, 0], -1, 1))
    about_x, about_z = np.arctan2(rotation[2, 1], rotation[2, 2]), np.arctan2(rotation[1, 0], rotation[0, 0])
    return np.degrees([about_x, about_y, about_z])
