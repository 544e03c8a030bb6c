# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Scores of the paper's studies and of Learn2Reg, for a displacement found for a case."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid, to_voxels
from ..metrics import (
    dice_per_label,
    hausdorff_per_label,
    jacobian_determinant,
    mean_over_labels,
    non_diffeomorphic_volume,
    target_registration_error,
)
from .learn2reg_measures import challenge_measures
from .study_case import StudyCase

__all__ = ["ABDOMEN_LABELS", "STUDY_SCORES", "abdomen_score", "cermep_score", "ixi_score", "regularity"]

ABDOMEN_LABELS = {1: "liver", 2: "spleen", 3: "right_kidney", 4: "left_kidney"}
HAUSDORFF_PERCENTILES = (95, 99, 100)
MAX_ERROR_HU = 120.0  # above it a registration has failed; the size of the error must not dominate a mean
MAX_ERROR_VOXELS = 3.0  # likewise


def abdomen_score(case: StudyCase, displacement_mm: torch.Tensor | None) -> dict[str, float]:
    """Overlap of the organs in abdomen MR-CT.

    Both label maps are restricted to the MR's foreground mask; organs missing there in the MR do not count.

    Args:
        case: of the study ``"abdomen"``.
        displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm; None, of a failed registration, counts as zero.

    Returns:
        ``dice`` (mean) and ``dice_liver`` ...; ``hd95``, ``hd99``, ``hd100``: mean distances between surfaces, in voxels as in
        the paper (2 mm each), over the organs that both maps show; ``ndv_percent``, ``det_std``; ``score``, minus the mean
        Dice.
    """
    fixed, moving, mask = case.need("fixed_labels", "moving_labels", "evaluation_mask")
    u = case.displacement(displacement_mm)
    counts = mask.as_tensor() > 0
    fixed, moved = (labels * counts for labels in (fixed.as_tensor(), case.moved(moving, u, "nearest")))
    dice = dice_per_label(fixed, moved, ABDOMEN_LABELS)
    if not dice:
        raise InputError(f"{case.study} case {case.name}: its fixed labels hold none of {ABDOMEN_LABELS} inside the mask")
    voxels = Grid(case.grid.shape, np.eye(case.grid.dims + 1))
    mean = mean_over_labels(dice)
    found = {"score": -mean, "dice": mean} | {f"dice_{ABDOMEN_LABELS[label]}": value for label, value in dice.items()}
    for percentile in HAUSDORFF_PERCENTILES:
        distance = mean_over_labels(hausdorff_per_label(fixed, moved, voxels, percentile, ABDOMEN_LABELS))
        found |= {} if math.isnan(distance) else {f"hd{percentile}": distance}
    return found | regularity(u, case.grid)


def cermep_score(case: StudyCase, displacement_mm: torch.Tensor | None) -> dict[str, float]:
    """Difference between the warped CT (linear, 0 HU outside) and the pseudo-CT inside the body.

    Args:
        case: of the study ``"cermep"``.
        displacement_mm: see :func:`abdomen_score`.

    Returns:
        ``mae_hu``, mean absolute difference; ``mae_capped_hu`` and ``score``, the same but at most 120 HU, as in the paper;
        ``ndv_percent``, ``det_std``.
    """
    target, mask = case.need("target", "evaluation_mask")
    u = case.displacement(displacement_mm)
    difference = (case.moved(case.moving, u) - target.as_tensor()).abs()[mask.as_tensor() > 0]
    mean = float(difference.double().mean())
    found = {"score": min(mean, MAX_ERROR_HU), "mae_hu": mean, "mae_capped_hu": min(mean, MAX_ERROR_HU)}
    return found | regularity(u, case.grid)


def ixi_score(case: StudyCase, displacement_mm: torch.Tensor | None) -> dict[str, float]:
    """Target registration error, mean over the deformed evaluation mask.

    Args:
        case: of the study ``"ixi"``.
        displacement_mm: see :func:`abdomen_score`.

    Returns:
        ``error_vox``, in voxels of the fixed image (along each axis its own); ``error_capped_vox`` and ``score``, the same but
        at most 3, as in the paper; ``error_mm``; ``ndv_percent``, ``det_std``.
    """
    truth, mask = case.need("truth", "evaluation_mask")
    u = case.displacement(displacement_mm)
    u_voxels, truth_voxels = (to_voxels(field.double(), case.grid) for field in (u, truth))
    mean = float(target_registration_error(u_voxels, truth_voxels, mask).mean())
    capped = min(mean, MAX_ERROR_VOXELS)
    found = {"score": capped, "error_vox": mean, "error_capped_vox": capped}
    found["error_mm"] = float(target_registration_error(u, truth, mask).mean())
    return found | regularity(u, case.grid)


def regularity(displacement_mm: torch.Tensor, grid: Grid) -> dict[str, float]:
    """Regularity of a deformation as in the paper.

    Args:
        displacement_mm: ``(D, *S)``, RAS mm.
        grid: of it.

    Returns:
        ``ndv_percent`` (Liu 2024) and ``det_std``, the standard deviation of the Jacobian determinant, both without the voxels
        at the border of the grid.
    """
    inner = jacobian_determinant(displacement_mm, grid)[tuple(slice(1, -1) for _ in grid.shape)]
    volume = non_diffeomorphic_volume(displacement_mm, grid)
    found = {"ndv_percent": volume} if volume is not None else {}
    return found | ({"det_std": float(inner.double().std())} if inner.numel() > 1 else {})


#: study named in a ``case.json`` to the function that scores its cases; ``"score"`` is what tuning minimizes
STUDY_SCORES: Mapping[str, Callable[[StudyCase, torch.Tensor | None], dict[str, float]]] = {
    "abdomen": abdomen_score,
    "cermep": cermep_score,
    "ixi": ixi_score,
    "learn2reg": challenge_measures,
}
