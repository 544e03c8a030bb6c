# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Slices in any plane: true lengths, coordinates that parallel slices share, and the way back into the world."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, check_planes, plane_angle
from monai_locor.geometry.planes import slice_plane

RNG = np.random.default_rng(0)
AXIAL = np.array([[-1.5, 0, 0, 20], [0, 2, 0, -30], [0, 0, 4, 3], [0, 0, 0, 1.0]])
SAGITTAL = np.array([[0, 0, 4, 3], [-1.5, 0, 0, 20], [0, 2, 0, -30], [0, 0, 0, 1.0]])
CORONAL = np.array([[-1.5, 0, 0, 20], [0, 0, -4, 3], [0, 2, 0, -30], [0, 0, 0, 1.0]])


def turned(affine: np.ndarray, axis: str, degrees: float) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return turn @ affine


ANY = turned(turned(SAGITTAL, "x", 20), "z", 31)
PLANES = {
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "tilted": turned(AXIAL, "x", 12),
    "halfway": turned(AXIAL, "x", 45),
    "halfway back": turned(AXIAL, "x", -45),
    "on the diagonal": turned(turned(AXIAL, "x", 45), "z", 45),
    "any": ANY,
}


@pytest.mark.parametrize("affine", PLANES.values(), ids=PLANES)
def test_lengths_are_true_and_the_affine_comes_back(affine):
    grid = Grid.placed((7, 9), affine)
    np.testing.assert_allclose(grid.spacing, [1.5, 2])
    np.testing.assert_allclose(grid.full_affine, affine, atol=1e-12)
    image = MetaTensor(torch.zeros(1, 7, 9), affine=torch.from_numpy(affine))
    np.testing.assert_array_equal(Grid.of(image).affine, grid.affine)
    for made in (
        grid.resampled([3, 3]),
        grid.cropped([slice(2, 5)] * 2),
        grid.reordered((1, 0), (True, False)),
        grid.snapped(),
    ):
        middle = made.full_affine @ [*(np.array(made.shape) - 1) / 2, 0, 1]
        expected = affine @ [*np.linalg.solve(grid.affine, [*made.center, 1])[:2], 0, 1]
        np.testing.assert_allclose(middle, expected, atol=1e-6)


@pytest.mark.parametrize("affine", PLANES.values(), ids=PLANES)
def test_slices_of_one_plane_share_coordinates(affine):
    """However their voxels lie: turned in the plane, mirrored, moved in it or to a parallel plane."""
    first = Grid.placed((7, 9), affine)
    for _ in range(5):
        angle = RNG.uniform(0, 2 * np.pi)
        change = np.diag([1.0, RNG.choice([-1, 1]), 1, 1])
        change[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ change[:2, :2]
        other = affine @ change
        other[:3] += RNG.normal(scale=1e-9, size=(3, 4))  # rounding of a header
        second = Grid.placed((7, 9), other)
        index = np.array([[4.0, 2.0], [0, 0], [6, 8]])
        inside = np.linalg.solve(change[:2, :2], index.T).T
        np.testing.assert_allclose(
            inside @ second.affine[:2, :2].T + second.affine[:2, 2],
            index @ first.affine[:2, :2].T + first.affine[:2, 2],
            atol=1e-6,
        )
    normal = np.cross(*affine[:3, :2].T)
    moved = affine.copy()
    moved[:3, 3] += 5 * normal / np.linalg.norm(normal)
    np.testing.assert_allclose(Grid.placed((7, 9), moved).affine, first.affine, atol=1e-9)


def test_axes_of_the_standard_planes():
    """A and S in a sagittal slice, R and S in a coronal one, x and y of the world in an axial one."""
    expected = [[-1.5, 0, 20], [0, 2, -30], [0, 0, 1]]
    for affine in (SAGITTAL, CORONAL, AXIAL):
        np.testing.assert_array_equal(Grid.placed((7, 9), affine).affine, expected)
    assert Grid.placed((7, 9), AXIAL).plane is None


def test_slices_in_the_x_y_plane_are_as_they_were():
    for affine in (AXIAL, turned(AXIAL, "z", 33), turned(AXIAL, "x", 0.01), AXIAL[[1, 0, 2, 3]]):
        grid = Grid.placed((7, 9), affine)
        assert grid.plane is None
        np.testing.assert_array_equal(grid.affine, affine[np.ix_([0, 1, 3], [0, 1, 3])])


def test_affines_that_are_no_plane_are_refused():
    for column in ([0, 0, 0], [-1.5, 0, 0], [np.nan, 0, 1]):
        affine = AXIAL.copy()
        affine[:3, 1] = column
        with pytest.raises(ValueError, match="not invertible"):
            Grid.placed((7, 9), affine)


def test_slices_of_different_planes_are_refused(caplog):
    grids = {name: Grid.placed((7, 9), affine) for name, affine in {**PLANES, "axial": AXIAL}.items()}
    assert plane_angle(grids["sagittal"], grids["coronal"]) == pytest.approx(90)
    assert plane_angle(grids["axial"], grids["halfway"]) == pytest.approx(45)
    with pytest.raises(InputError, match=r"image a and image b are slices in planes 12 degrees apart; "):
        check_planes(grids["tilted"], grids["axial"], ("image a", "image b"))
    with caplog.at_level(logging.WARNING):
        check_planes(grids["any"], Grid.placed((5, 5), turned(ANY, "y", 0.1)), ("a", "b"))
        assert not caplog.text
        check_planes(grids["any"], Grid.placed((5, 5), turned(ANY, "y", 2)), ("a", "b"))
    assert "each is taken in its own plane" in caplog.text


@pytest.mark.parametrize("without", [np.eye(4), np.diag([-1.0, -1, 1, 1])], ids=["array", "picture"])
def test_images_without_a_place_go_with_any_plane(without):
    assert plane_angle(Grid.placed((5, 5), without), Grid.placed((5, 5), SAGITTAL)) == 0
    assert plane_angle(Grid.placed((5, 5, 5), np.eye(4)), Grid.placed((5, 5, 5), ANY)) == 0


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_whether_axes_span_a_plane_does_not_depend_on_their_length(scale):
    sagittal = np.array([[0.0, 0, 4, 3], [2, 0, 0, -32], [0, 2, 0, -30], [0, 0, 0, 1]])
    line = sagittal.copy()
    line[:3, 1] = line[:3, 0] + 1e-9 * line[:3, 1]
    for affine in (sagittal, line):
        affine[:3] *= scale
    assert slice_plane(sagittal) is not None and slice_plane(line[[0, 2, 1, 3]]) is None
