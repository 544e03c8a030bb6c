# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Starts of other orientations, as rivals of an affine."""

from __future__ import annotations

import numpy as np
import pytest

from monai_locor import register
from monai_locor.geometry import Grid
from monai_locor.registration.start.prepare import PreparedImage
from monai_locor.registration.start.rivals import RivalStarts

from .test_multistart import CONFIG, SMALL, WIDE, I, meta, motion, moved, prepared


def flip(grid: Grid, axis: int) -> np.ndarray:
    """Reflection about the center of a grid, ``(D + 1, D + 1)``."""
    matrix = np.diag([-1.0 if k == axis else 1.0 for k in range(grid.dims + 1)])
    matrix[axis, -1] = 2 * grid.center[axis]
    return matrix


def rivals(truth: np.ndarray, affine: np.ndarray, grid: Grid) -> dict[bool, tuple[str, float]]:
    images: tuple[PreparedImage, PreparedImage] = prepared(grid, True), moved(prepared(grid), truth)
    found = RivalStarts(*images, np.eye(grid.dims + 1)).compared(affine)
    return {rival.mirrored: (rival.name, rival.lead) for rival in found}


def test_no_other_orientation_of_a_plane_agrees_as_well():
    found = rivals(np.eye(3), np.eye(3), SMALL)
    assert found[False][1] < -2 and found[True][1] < -2


def test_a_mirrored_plane_is_recognized():
    turned = motion(SMALL, 140, (1,), (0, 0))
    name, lead = rivals(flip(SMALL, 0) @ turned, np.eye(3), SMALL)[True]
    assert name == "mirrored" and lead > 3


def test_a_turned_plane_is_recognized():
    name, lead = rivals(motion(SMALL, 90, (1,), (0, 0)), np.eye(3), SMALL)[False]
    assert name.startswith("turned by") and lead > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "mirrored", "name"),
    [
        (flip(WIDE, 0), True, "mirrored left-right"),
        (flip(WIDE, 1), True, "mirrored front-back"),
        (motion(WIDE, 180, (0, 0, 1), (0, 0, 0)), False, "turned by 180 degrees about the vertical axis"),
    ],
)
def test_volumes(truth, mirrored, name):
    found, lead = rivals(truth, I, WIDE)[mirrored]
    assert lead > 3 and found.split("degrees")[-1] == name.split("degrees")[-1]


@pytest.mark.slow
def test_the_affine_wins_where_it_is_right():
    truth = motion(WIDE, 100, (1, 2, 3), (0.2, 0, 0))
    found = rivals(truth, truth, WIDE)
    assert found[False][1] < -2 and found[True][1] < -2


@pytest.mark.slow
def test_a_mirrored_image_does_not_pass_and_the_reason_names_it():
    verdict = register(
        meta(prepared(WIDE, True)), meta(moved(prepared(WIDE), flip(WIDE, 1))), preset=CONFIG, device="cpu", progress=False
    ).verdict
    assert verdict is not None and verdict.status != "PASS"
    assert any("mirrored front-back, the moving image agrees better" in reason.text for reason in verdict.reasons)
