# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Names of orientations and the texts of their checks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monai_locor.quality.rivals import Rival, change_of_orientation, leads, mirror_text, rival_text


def turn(degrees: float, axis: tuple[float, ...]) -> np.ndarray:
    return Rotation.from_rotvec(np.radians(degrees) * np.array(axis)).as_matrix()


@pytest.mark.parametrize(
    ("linear", "name"),
    [
        (1.2 * turn(90, (1, 0, 0)), "turned by 90 degrees about the left-right axis"),
        (turn(175, (0, -1, 0)), "turned by 175 degrees about the front-back axis"),
        (turn(60, (0.6, 0.8, 0)), "turned by 60 degrees"),
        (np.diag([1.0, -1.1, 0.9]), "mirrored front-back"),
        (turn(20, (1, 0, 0)) @ np.diag([1.0, 1, -1]), "mirrored upside down"),
        (-np.eye(3), "mirrored and turned by 180 degrees"),
        (np.array([[0.0, 1], [-1, 0]]), "turned by 90 degrees"),
        (np.diag([1.0, -1]), "mirrored"),
    ],
)
def test_names(linear, name):
    assert change_of_orientation(linear) == name


def test_the_highest_lead_of_each_kind_counts():
    some = Rival("a", False, -3.0), Rival("b", False, -1.0), Rival("c", True, -5.0)
    assert leads(some) == {"rival_lead": -1.0, "mirror_lead": -5.0}
    assert all(math.isnan(value) for value in leads(()).values())


@pytest.mark.parametrize(("lead", "part"), [(-4.0, "worse by 4.0"), (0.5, "do not tell"), (4.0, "better by 4.0")])
def test_the_text_follows_the_lead(lead, part):
    assert part in mirror_text([Rival("mirrored left-right", True, lead)])
    text = rival_text([Rival("turned by 90 degrees", False, lead)])
    assert ("worse" if lead < 0 else "as well" if lead < 1 else "better") in text and "90 degrees" in text
