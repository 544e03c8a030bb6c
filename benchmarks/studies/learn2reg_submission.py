# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Write and evaluate submissions to the Learn2Reg challenge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_locor import InputError
from monai_locor.data.learn2reg_measures import challenge_measures
from monai_locor.data.study_case import StudyCase
from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import check_output_dir
from monai_locor.io.transforms import read_transform, write_transform

from .learn2reg import Learn2Reg

__all__ = ["evaluate_submission", "write_submission"]

REPORTED_QUANTILE = 0.3  # of the cases, reported beside their mean


def write_submission(folder: str | PathLike[str], case: StudyCase, displacement_mm: torch.Tensor) -> Path:
    """Write a displacement in the format of the challenge: ``disp_0006_0006.nii.gz``, ``(X, Y, Z, 3)`` voxels.

    Args:
        folder: of the submission.
        case: of a :class:`.Learn2Reg` data set.
        displacement_mm: ``(D, *S)`` on the fixed grid, RAS mm.

    Returns:
        the file. The voxel x of the fixed image belongs to the voxel ``x + disp(x)`` of the moving image.

    Raises:
        InputError: if the folder cannot be written to.
        ValueError: if the displacement does not live on the fixed grid or is not finite.
    """
    transform = SpatialTransform.of_field(case.displacement(displacement_mm), case.grid)
    path = check_output_dir(folder) / _displacement_name(case)
    return write_transform(path, transform, format="learn2reg", fixed=case.grid, moving=Grid.of(case.moving))[0]


def evaluate_submission(
    dataset: Learn2Reg, folder: str | PathLike[str], split: str = "val", labels: Iterable[int] | None = None
) -> dict[str, Any]:
    """Evaluate the displacements of a split.

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
        InputError: if a displacement or a file of the data set is missing or cannot be used.
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
            "30": float(np.quantile(values, REPORTED_QUANTILE)),
        }
    return found


def _displacement_name(case: StudyCase) -> str:
    if "displacement" not in case.about:
        raise InputError(f"case {case.name} of {case.study}: is not from Learn2Reg, so its displacement has no file name")
    return str(case.about["displacement"])


def _submitted(root: Path, name: str) -> Path | None:
    """The file of a displacement, in either format."""
    paths = (root / name, root / name.replace(".nii.gz", ".npz"))
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path, case: StudyCase) -> torch.Tensor:
    """A displacement of a submission on the fixed grid, RAS mm."""
    transform = read_transform(path, format="learn2reg", fixed=case.grid, moving=Grid.of(case.moving))
    return transform.displacement(case.grid)
