# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Scores of a displacement against the references in the folder of a case."""

from __future__ import annotations

from pathlib import Path

import torch

from ..data.annotations import read_label, read_landmarks
from ..data.study_case import read_case
from ..data.study_scores import STUDY_SCORES
from ..errors import InputError
from ..geometry import Grid, SpatialTransform, same_grid
from ..io import read_displacement_field, read_mask
from ..metrics import common_labels, dice_per_label, mean_over_labels, target_registration_error
from ..roles import ROLES
from .case_files import LANDMARK_FILES, image_file

__all__ = ["label_dice", "mean_target_error", "study_score"]


def study_score(folder: Path, study: str, displacement_mm: torch.Tensor) -> float:
    """The score that a study minimizes, see :data:`monai_locor.data.study_scores.STUDY_SCORES`.

    Args:
        folder: folder of the case.
        study: name of the study.
        displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm, including the affine.
    """
    return STUDY_SCORES[study](read_case(folder), displacement_mm)["score"]


def mean_target_error(folder: Path, grid: Grid, displacement_mm: torch.Tensor) -> float:
    """Mean target registration error, mm, against the true displacement or, without one, the landmarks.

    Args:
        folder: folder of the case.
        grid: fixed grid.
        displacement_mm: ``(D, *grid.shape)``, RAS mm, including the affine.

    Raises:
        InputError: if a file cannot be read or does not match the fixed image.
    """
    path = image_file(folder, "truth")
    if path is None:
        return _landmark_error(folder, grid, displacement_mm)
    truth, truth_grid = read_displacement_field(path)
    _check_grid(path, truth_grid, grid)
    mask_path = image_file(folder, "mask")
    mask = None if mask_path is None else read_mask(mask_path)
    if mask_path is not None and mask is not None:
        _check_grid(mask_path, Grid.of(mask), grid)
    return float(target_registration_error(displacement_mm, truth, None if mask is None else mask.as_tensor()).mean())


def label_dice(folder: Path, grid: Grid, displacement_mm: torch.Tensor) -> float:
    """Mean Dice over the labels that both label maps have; arguments as for :func:`mean_target_error`.

    Raises:
        InputError: if a file cannot be read, or the label maps have no label in common.
    """
    fixed, moving = (read_label(folder / f"{role}_labels.nii.gz", role) for role in ROLES)
    transform = SpatialTransform.of_field(displacement_mm, grid)
    identity = SpatialTransform.of_field(torch.zeros_like(displacement_mm), grid)
    on_grid, moved = (t.warp(m, Grid.of(m), grid, "nearest") for t, m in ((identity, fixed), (transform, moving)))
    labels = common_labels(on_grid, moving)
    if not labels:
        raise InputError(f"labels of {folder}: the two label maps have no label in common; check that they match")
    return mean_over_labels(dice_per_label(on_grid, moved, labels))


def _landmark_error(folder: Path, grid: Grid, displacement_mm: torch.Tensor) -> float:
    fixed, moving = (read_landmarks(folder / name, name.split("_")[0]) for name in LANDMARK_FILES)
    if fixed.shape != moving.shape or fixed.shape[1] != grid.dims:
        shapes = f"{tuple(fixed.shape)} and {tuple(moving.shape)}"
        raise InputError(f"landmarks of {folder}: shapes are {shapes}; give pairs of {grid.dims}-D points")
    mapped = SpatialTransform.of_field(displacement_mm, grid).points(fixed)
    return float(torch.linalg.vector_norm(mapped - moving, dim=1).mean())


def _check_grid(path: Path, grid: Grid, fixed_grid: Grid) -> None:
    if not same_grid(grid, fixed_grid):
        raise InputError(f"{path}: is not on the grid of fixed.nii.gz, {fixed_grid.shape}; resample it to that grid")
