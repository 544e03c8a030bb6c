# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The measures of the Learn2Reg challenge for a displacement."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid
from ..metrics import dice_per_label, hausdorff_per_label, jacobian_determinant, jacobian_statistics, mean_over_labels
from .study_case import StudyCase

__all__ = ["challenge_measures"]

BORDER_VOXELS = 2  # margin of the grid without Jacobian statistics


def challenge_measures(
    case: StudyCase, displacement_mm: torch.Tensor | None, labels: Iterable[int] | None = None
) -> dict[str, float]:
    """The measures of the Learn2Reg challenge (Hering 2023, doi 10.1109/TMI.2022.3213983) of one displacement.

    They agree with the challenge's evaluation script, with these exceptions. The script counts foldings after adding 3 to the
    Jacobian determinant and clipping it to positive values, and therefore never finds any; here they are counted. Its SDlogJ
    is the standard deviation of ``log(det J + 3)``, about a quarter of that of ``log(det J)``, which the paper defines; both
    are returned. Its 95 % Hausdorff distance weights surface voxels by their area; here they have equal weight.

    Args:
        case: with label maps, points, or both.
        displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm; None counts as zero.
        labels: the labels to evaluate; by default those named by the data set, else all of the fixed map.

    Returns:
        those that the case's annotations allow: ``dice`` and ``hd95`` (voxels), means over the labels in both maps before
        warping; ``tre_landmarks_mm``, ``tre_keypoints_mm``, means over the points, with the displacement interpolated by a
        cubic spline; ``sdlogj``, ``sdlogj_challenge``, ``folding_voxels``, ``folding_percent`` and ``ndv_percent``, without
        two voxels at the border and, if there is a fixed mask, inside it only. ``score`` is minus Dice, else the mean TRE.

    Raises:
        ValueError: if the displacement does not live on the fixed grid or is not finite.
    """
    u = case.displacement(displacement_mm)
    found = _overlap(case, u, labels) | _distances(case, u) | _regularity(case, u)
    distances = [value for key, value in found.items() if key.startswith("tre_")]
    if "dice" in found or distances:
        found["score"] = -found["dice"] if "dice" in found else sum(distances) / len(distances)
    return found


def _overlap(case: StudyCase, u: torch.Tensor, labels: Iterable[int] | None) -> dict[str, float]:
    if case.fixed_labels is None or case.moving_labels is None:
        return {}
    fixed, moved = case.fixed_labels.as_tensor(), case.moved(case.moving_labels, u, "nearest")
    named = [int(label) for label in case.about.get("labels", {})]
    wanted = set(labels if labels is not None else named or fixed.unique().tolist()) - {0}
    wanted &= {int(label) for label in case.moving_labels.unique().tolist()}
    dice = dice_per_label(fixed, moved, wanted)
    voxels = Grid(case.grid.shape, np.eye(case.grid.dims + 1))
    distance = mean_over_labels(hausdorff_per_label(fixed, moved, voxels, labels=wanted))
    found = {"dice": mean_over_labels(dice), "hd95": distance}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _distances(case: StudyCase, u: torch.Tensor) -> dict[str, float]:
    to_index = np.linalg.inv(case.grid.affine)
    found = {}
    for kind, (fixed, moving) in case.points.items():
        if len(fixed) != len(moving):
            raise InputError(f"case {case.name}: {len(fixed)} fixed and {len(moving)} moving {kind}; they must correspond")
        index = fixed.numpy() @ to_index[:-1, :-1].T + to_index[:-1, -1]
        shift = [_ndimage().map_coordinates(component.double().numpy(), index.T, order=3) for component in u]
        error = fixed.numpy() + np.stack(shift, -1) - moving.numpy()
        found[f"tre_{kind}_mm"] = float(np.linalg.norm(error, axis=-1).mean())
    return found


def _regularity(case: StudyCase, u: torch.Tensor) -> dict[str, float]:
    counted = torch.zeros(case.grid.shape, dtype=torch.bool)
    counted[tuple(slice(BORDER_VOXELS, -BORDER_VOXELS) for _ in case.grid.shape)] = True
    if case.fixed_mask is not None:
        counted &= case.fixed_mask.as_tensor()[0] > 0
    if not counted.any():
        raise InputError(
            f"case {case.name}: no voxel of its fixed mask is {BORDER_VOXELS} voxels from the border; check the mask"
        )
    known = jacobian_statistics(u, case.grid, counted)
    shifted = jacobian_determinant(u, case.grid)[counted].double() + 3  # as in the challenge's script
    found = {
        "sdlogj": known["std_log"],
        "sdlogj_challenge": float(shifted.clamp(1e-9, 1e9).log().std(correction=0)),
        "folding_voxels": known["folding_voxels"],
        "folding_percent": known["folding_percent"],
        "ndv_percent": known["ndv"],
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _ndimage() -> Any:
    """``scipy.ndimage``, which is not a dependency of the package.

    Raises:
        ImportError: without SciPy, naming the remedy.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ImportError("the errors at points of Learn2Reg need SciPy: pip install scipy") from error
    return ndimage
