# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The sets of rotations and reflections of the multi-start search."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monai_locor.quality.rivals import turn_degrees
from monai_locor.registration.start.rotations import axis_reflections, axis_rotations, even_rotations


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angles between rotations, degrees, ``(N, M)``."""
    trace = np.einsum("aij,bij->ab", first, second)
    dims = first.shape[-1]
    return np.degrees(np.arccos(np.clip((trace - (dims - 2)) / 2, -1, 1)))


@pytest.mark.parametrize(("dims", "count"), [(2, 4), (3, 24)])
def test_exchanged_axes_form_the_groups_of_the_square_and_the_cube(dims, count):
    rotations, reflections = (np.stack(f(dims)) for f in (axis_rotations, axis_reflections))
    for found, sign in ((rotations, 1), (reflections, -1)):
        assert len(np.unique(found.reshape(len(found), -1), axis=0)) == count
        np.testing.assert_allclose(np.linalg.det(found), sign)
    assert any((r == np.eye(dims)).all() for r in rotations)


@pytest.mark.parametrize(("dims", "count", "reach"), [(2, 36, 5.1), (3, 72, 56), (3, 300, 34)])
def test_any_rotation_is_near_one_of_an_even_set(dims, count, reach):
    found = np.stack(even_rotations(dims, count))
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), np.broadcast_to(np.eye(dims), found.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1)
    some = Rotation.random(500, rng=0).as_matrix() if dims == 3 else np.stack(even_rotations(2, 499))
    assert angles(some, found).min(1).max() < reach


@pytest.mark.parametrize("degrees", [0.0, 35.0, 90.0, 180.0])
def test_the_angle_of_a_turn(degrees):
    volume = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0, 0.8])).as_matrix()
    plane = Rotation.from_rotvec([0, 0, np.radians(degrees)]).as_matrix()[:2, :2]
    for linear in (volume, plane, 1.3 * volume):
        assert turn_degrees(linear) == pytest.approx(degrees, abs=1e-5)
