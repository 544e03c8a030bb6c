# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the Learn2Reg challenge measures of a displacement, and of a folder of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import InputError
from ...geometry import Grid, SpatialTransform
from ...io import check_output_dir
from ...io.transforms import read_transform, write_transform
from ...metrics import dice_per_label, hausdorff_per_label, jacobian_determinant, jacobian_statistics, mean_over_labels
from .case import StudyCase
from .masks import ndimage

if TYPE_CHECKING:
    from .learn2reg import Learn2Reg

__all__ = ["challenge_measures", "evaluate_submission", "write_submission"]

MARGIN = 2  # voxels at the border of the grid whose Jacobian does not count
QUANTILE = 0.3  # of the cases, beside their mean


def challenge_measures(
    case: StudyCase, displacement_mm: torch.Tensor | None, labels: Iterable[int] | None = None
) -> dict[str, float]:
    """The measures of the Learn2Reg challenge (Hering 2023, doi 10.1109/TMI.2022.3213983) of one displacement.

    As its evaluation has them, with these exceptions: its script counts foldings after it has added 3 to the Jacobian
    determinant and clipped it to positive values, so that it counts none, ever; here they are counted. Its SDlogJ is the
    standard deviation of ``log(det J + 3)``, about a quarter of that of ``log(det J)`` which its paper defines; here is
    both. Its 95 % Hausdorff distance weighs surface voxels by their area, here they count equally.

    Args:
        case: with label maps, points, or both.
        displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm; ``None`` is no displacement.
        labels: which labels count; by default those that the data set names, or else all of the fixed map.

    Returns:
        as far as the case allows: ``dice`` and ``hd95`` (voxels), means over the labels that both maps have before warping;
        ``tre_landmarks_mm``, ``tre_keypoints_mm``, means over the points, the displacement read by a cubic spline;
        ``sdlogj``, ``sdlogj_challenge``, ``folding_voxels``, ``folding_percent`` and ``ndv_percent``, two voxels at the
        border left out, and all outside the fixed mask where there is one. ``score`` is minus Dice, else the mean TRE.

    Raises:
        ValueError: when the displacement does not live on the fixed grid or is not finite.
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
        shift = [ndimage().map_coordinates(component.double().numpy(), index.T, order=3) for component in u]
        error = fixed.numpy() + np.stack(shift, -1) - moving.numpy()
        found[f"tre_{kind}_mm"] = float(np.linalg.norm(error, axis=-1).mean())
    return found


def _regularity(case: StudyCase, u: torch.Tensor) -> dict[str, float]:
    counted = torch.zeros(case.grid.shape, dtype=torch.bool)
    counted[tuple(slice(MARGIN, -MARGIN) for _ in case.grid.shape)] = True
    if case.fixed_mask is not None:
        counted &= case.fixed_mask.as_tensor()[0] > 0
    if not counted.any():
        raise InputError(f"case {case.name}: no voxel of its fixed mask is {MARGIN} voxels from the border; check the mask")
    known = jacobian_statistics(u, case.grid, counted)
    shifted = jacobian_determinant(u, case.grid)[counted].double() + 3  # as its script has it
    found = {
        "sdlogj": known["std_log"],
        "sdlogj_challenge": float(shifted.clamp(1e-9, 1e9).log().std(correction=0)),
        "folding_voxels": known["folding_voxels"],
        "folding_percent": known["folding_percent"],
        "ndv_percent": known["ndv"],
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def write_submission(folder: str | PathLike[str], case: StudyCase, displacement_mm: torch.Tensor) -> Path:
    """Write a displacement as the challenge takes it: ``disp_0006_0006.nii.gz``, ``(X, Y, Z, 3)`` voxels.

    Args:
        folder: of the submission.
        case: of a :class:`.Learn2Reg` data set.
        displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm.

    Returns:
        the file. The voxel x of the fixed image belongs to the voxel ``x + disp(x)`` of the moving image.

    Raises:
        InputError: when the folder cannot be written to.
        ValueError: when the displacement does not live on the fixed grid or is not finite.
    """
    transform = SpatialTransform.of_field(case.displacement(displacement_mm), case.grid)
    path = check_output_dir(folder) / _displacement_name(case)
    return write_transform(path, transform, format="learn2reg", fixed=case.grid, moving=Grid.of(case.moving))[0]


def evaluate_submission(
    dataset: Learn2Reg, folder: str | PathLike[str], split: str = "val", labels: Iterable[int] | None = None
) -> dict[str, Any]:
    """Evaluate the displacements that were made for a split.

    Args:
        dataset: the data set.
        folder: with ``disp_*.nii.gz``, ``(X, Y, Z, 3)`` voxels, or ``disp_*.npz`` of the challenge's first years for every
            pair.
        split: of the data set.
        labels: see :func:`challenge_measures`.

    Returns:
        ``{"name": ..., "aggregates": {measure: {"mean", "std", "30"}}, "cases": {pair: {measure: value}}}`` as in the
        challenge's ``metrics.json``: mean, standard deviation and 30 % quantile over the cases that have the measure.

    Raises:
        InputError: when a displacement or a file of the data set is missing, or one cannot be used.
    """
    root = Path(folder).expanduser()
    files = {pair.name: _submitted(root, pair.displacement) for pair in dataset.pairs(split)}
    missing = [dataset.pair(name).displacement for name, path in files.items() if path is None]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"submission {root}: {missing[0]} is missing{more}; it needs one for every pair of {split!r}")
    cases = {}
    for name, path in files.items():
        case = dataset.load(name)
        cases[name] = challenge_measures(case, _read(path, case), labels) if path is not None else {}
    return {"name": dataset.task, "aggregates": _aggregates(cases), "cases": cases}


def _aggregates(cases: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    found = {}
    for measure in dict.fromkeys(key for values in cases.values() for key in values):
        values = np.array([case[measure] for case in cases.values() if measure in case])
        found[measure] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "30": float(np.quantile(values, QUANTILE)),
        }
    return found


def _displacement_name(case: StudyCase) -> str:
    if "displacement" not in case.about:
        raise InputError(f"case {case.name} of {case.study}: is none of Learn2Reg, its displacement has no name there")
    return str(case.about["displacement"])


def _submitted(root: Path, name: str) -> Path | None:
    """The file of a displacement, in either of its formats."""
    paths = (root / name, root / name.replace(".nii.gz", ".npz"))
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path, case: StudyCase) -> torch.Tensor:
    """A displacement of a submission on the fixed grid, RAS mm."""
    transform = read_transform(path, format="learn2reg", fixed=case.grid, moving=Grid.of(case.moving))
    return transform.displacement(case.grid)
