# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whatever takes an array takes it in every layout, and gives the same answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_locor import RegistrationConfig, metrics, register
from monai_locor.geometry import SpatialTransform, warp
from monai_locor.io import PointList, read_displacement_field, write_displacement_field
from monai_locor.io.libraries import image_for_simpleitk
from monai_locor.quality.error_map import ErrorMap
from monai_locor.registration import Stage
from monai_locor.registration.landmarks import Landmarks
from monai_locor.registration.pair import load_pair
from monai_locor.registration.start.given import given_transform
from monai_locor.report.pictures.planes import upright
from monai_locor.transforms import DerivativeMagnitude

from .layouts import LAYOUTS
from .phantoms import grid_of, pair

GRID = grid_of((14, 13, 12), (2.0, 2.0, 2.5))
FIXED, MOVING, SHIFT = (x.numpy() for x in pair(GRID, GRID))
PLACED = {"fixed": (FIXED, GRID.full_affine), "moving": (MOVING, GRID.full_affine)}
LABELS = (FIXED > 0.3).astype(np.int16)
TENSORS = np.concatenate([FIXED, MOVING] * 3)
POINTS = np.array([[1.0, -2.0, 3.0], [4.0, 0.0, -1.0]])
MATRIX = np.eye(4) + 0.01 * np.eye(4, k=2)
FIELD = SpatialTransform.of_field(SHIFT, GRID)
CONFIG = RegistrationConfig(stages=(Stage(4, 1), Stage(4, 1, spacing=16)), multistart="never", intersubject="never")

Layout = Callable[[np.ndarray], np.ndarray]


def start(name: str, values: np.ndarray) -> list[Any]:
    found = load_pair(**PLACED, config=CONFIG, **{name: values})
    return [found.affine, found.velocity if found.displacement is None else found.displacement]


def written(path: Path, values: np.ndarray) -> torch.Tensor:
    write_displacement_field(path, values, GRID)
    return read_displacement_field(path)[0]


CALLS: dict[str, Callable[[Layout, Path], Any]] = {
    "SpatialTransform.points": lambda c, _: FIELD.points(c(POINTS)),
    "SpatialTransform.of_affine": lambda c, _: SpatialTransform.of_affine(c(MATRIX)).matrix,
    "SpatialTransform.of_field": lambda c, _: SpatialTransform.of_field(c(SHIFT), GRID).points(POINTS),
    "SpatialTransform.warp": lambda c, _: FIELD.warp(c(FIXED), GRID, GRID),
    "SpatialTransform.warp, labels": lambda c, _: FIELD.warp(c(LABELS), GRID, GRID, "nearest"),
    "SpatialTransform.warp_tensors": lambda c, _: FIELD.warp_tensors(c(TENSORS), GRID, GRID),
    "warp": lambda c, _: warp(c(FIXED), GRID, torch.from_numpy(SHIFT), GRID),
    "PointList": lambda c, _: PointList(c(POINTS)).points,
    "Landmarks": lambda c, _: list(Landmarks.of((c(POINTS), c(POINTS) + 1, c(POINTS[:, 0]))).described().values()),
    "initial matrix": lambda c, _: start("initial", c(MATRIX))[0],
    "initial field": lambda c, _: start("initial", c(SHIFT)),
    "initial_velocity": lambda c, _: start("initial_velocity", c(SHIFT)),
    "transform of check": lambda c, _: given_transform(c(SHIFT), "transform", GRID, GRID).points(POINTS),
    "normalized_mutual_information": lambda c, _: metrics.normalized_mutual_information(c(FIXED), c(MOVING), c(LABELS)),
    "masks of metrics": lambda c, _: metrics.target_registration_error(*[torch.from_numpy(SHIFT)] * 2, c(LABELS)),
    "DerivativeMagnitude": lambda c, _: DerivativeMagnitude()(c(FIXED)),
    "ErrorMap.at": lambda c, _: ErrorMap(*torch.from_numpy(SHIFT), GRID).at(c(POINTS)).expected_mm,
    "pictures": lambda c, _: upright(c(FIXED), GRID)[0],
    "write_displacement_field": lambda c, folder: written(folder / "a.nii", c(SHIFT)),
    "image_for_simpleitk": lambda c, _: image_for_simpleitk(c(FIXED), GRID)[3, 4, 5],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_the_answer_is_that_of_a_plain_array(name, layout, tmp_path):
    if "simpleitk" in name:
        pytest.importorskip("SimpleITK")
    found, expected = (CALLS[name](c, tmp_path) for c in (LAYOUTS[layout], np.copy))
    for one, other in zip(*(x if isinstance(x, list) else [x] for x in (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_registration_with_every_argument(layout):
    c = LAYOUTS[layout]
    arguments = {
        **{role: (c(array), affine) for role, (array, affine) in PLACED.items()},
        **{"fixed_mask": (c(LABELS), GRID.full_affine), "moving_mask": (c(LABELS), GRID.full_affine)},
        **{"labels": [(c(LABELS), GRID.full_affine)] * 2, "landmarks": (c(POINTS), c(POINTS)), "initial": c(MATRIX)},
    }
    result = register(**arguments, preset=CONFIG, progress=False, device="cpu")
    assert result.landmarks_mm is not None and result.warped_moving is not None
