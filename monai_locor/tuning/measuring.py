# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Scores of a displacement against the references of a case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data.annotations import read_label, read_landmarks
from ..data.study_case import read_case
from ..data.study_scores import STUDY_SCORES
from ..errors import InputError
from ..geometry import Grid, SpatialTransform, same_grid
from ..io import read_displacement_field, read_mask
from ..metrics import common_labels, dice_per_label, mean_over_labels, target_registration_error
from .cases import LANDMARK_FILES

if TYPE_CHECKING:
    from .cases import Case

__all__ = ["measured"]


def measured(case: Case, displacement_mm: torch.Tensor | None) -> dict[str, float]:
    """See :meth:`monai_locor.tuning.Case.measure`."""
    grid = case.grid
    zero = torch.zeros(grid.dims, *grid.shape, dtype=torch.float32)
    u = zero if displacement_mm is None else displacement_mm.detach().cpu()
    if tuple(u.shape) != (grid.dims, *grid.shape) or not u.isfinite().all():
        raise ValueError(f"a displacement of {case.name} must be finite and {(grid.dims, *grid.shape)}")
    methods = {"study": _study_score, "tre": _target_error, "dice": _overlap}
    return {name: methods[name](case, u) for name in case.scores}


def _study_score(case: Case, displacement_mm: torch.Tensor) -> float:
    assert case.study is not None
    return STUDY_SCORES[case.study](read_case(case.folder), displacement_mm)["score"]


def _target_error(case: Case, displacement_mm: torch.Tensor) -> float:
    path = case.file("truth")
    if path is None:
        return _landmark_error(case, displacement_mm)
    truth, grid = read_displacement_field(path)
    _check_grid(case, path, grid)
    mask_path = case.file("mask")
    mask = None if mask_path is None else read_mask(mask_path)
    if mask_path is not None and mask is not None:
        _check_grid(case, mask_path, Grid.of(mask))
    return float(target_registration_error(displacement_mm, truth, None if mask is None else mask.as_tensor()).mean())


def _landmark_error(case: Case, displacement_mm: torch.Tensor) -> float:
    fixed, moving = (read_landmarks(case.folder / name, name.split("_")[0]) for name in LANDMARK_FILES)
    if fixed.shape != moving.shape or fixed.shape[1] != case.grid.dims:
        shapes = f"{tuple(fixed.shape)} and {tuple(moving.shape)}"
        raise InputError(f"landmarks of {case.folder}: shapes are {shapes}; give pairs of {case.grid.dims}-D points")
    mapped = SpatialTransform.of_field(displacement_mm, case.grid).points(fixed)
    return float(torch.linalg.vector_norm(mapped - moving, dim=1).mean())


def _overlap(case: Case, displacement_mm: torch.Tensor) -> float:
    fixed, moving = (read_label(case.folder / f"{role}_labels.nii.gz", role) for role in ("fixed", "moving"))
    transform = SpatialTransform.of_field(displacement_mm, case.grid)
    identity = SpatialTransform.of_field(torch.zeros_like(displacement_mm), case.grid)
    on_grid, moved = (t.warp(m, Grid.of(m), case.grid, "nearest") for t, m in ((identity, fixed), (transform, moving)))
    labels = common_labels(on_grid, moving)
    if not labels:
        raise InputError(f"labels of {case.folder}: the two label maps have no label in common; check that they match")
    return mean_over_labels(dice_per_label(on_grid, moved, labels))


def _check_grid(case: Case, path: Path, grid: Grid) -> None:
    if not same_grid(grid, case.grid):
        raise InputError(f"{path}: is not on the grid of fixed.nii.gz, {case.grid.shape}; resample it to that grid")
