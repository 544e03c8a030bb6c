# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pictures: orientation and aspect of what is drawn, and that nothing of the caller's matplotlib changes."""

from __future__ import annotations

import builtins
import sys
from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid, reorder
from monai_locor.report import before_after_picture
from monai_locor.report.pictures.planes import checkerboard, deformed_lines, planes_through, upright, window

from ..parameters import mostly_slow
from ..phantoms import image

GRID = Grid((12, 14, 10), np.diag([2.0, 2.0, 3.0, 1.0]))


def noise(grid: Grid, seed: int = 0) -> MetaTensor:
    return image(torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(seed)), grid)


@pytest.mark.parametrize("suffix", mostly_slow([".png", ".pdf"]))
def test_writes_a_picture_with_and_without_grid(tmp_path, suffix):
    matplotlib = pytest.importorskip("matplotlib")
    backend = matplotlib.rcParams._get("backend")
    u = random_diffeomorphism(GRID, 0, smoothing_mm=20)
    plain = before_after_picture(tmp_path / f"a{suffix}", *(noise(GRID, s) for s in range(3)))
    full = before_after_picture(str(tmp_path / f"b{suffix}"), *(noise(GRID, s) for s in range(3)), "title", u)
    assert full.stat().st_size > plain.stat().st_size > 1000
    assert matplotlib.rcParams._get("backend") == backend  # neither switched nor resolved
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_two_dimensional_constant_and_broken_images_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    flat = Grid((30, 20), np.diag([1.0, 2.0, 1.0]))
    broken = noise(flat)
    broken[0, 3, 3] = float("nan")
    before_after_picture(tmp_path / "a.png", broken, torch.zeros(1, 30, 20), torch.full((1, 30, 20), 7.0))
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_refuses_images_on_other_grids(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"\(12, 14, 10\)"):
        before_after_picture(tmp_path / "a.png", noise(GRID), noise(GRID), torch.zeros(1, 3, 3, 3))


def test_names_the_extra_when_matplotlib_is_missing(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"monai-locor\[plot\]"):
        before_after_picture(tmp_path / "a.png", *(noise(GRID) for _ in range(3)))


def test_planes_are_radiological():
    right, anterior, superior = (np.moveaxis(GRID.points(), -1, 0)[k] for k in range(3))
    axial, coronal, sagittal = planes_through(GRID, [6, 7, 5])
    for plane, left, top in ((axial, right, anterior), (coronal, right, superior), (sagittal, anterior, superior)):
        across, up = plane.cut(left), plane.cut(top)
        assert (np.diff(across, axis=1) < 0).all() and (np.diff(across, axis=0) == 0).all()  # high end on the left
        assert (np.diff(up, axis=0) < 0).all() and (np.diff(up, axis=1) == 0).all()  # high end at the top
    assert [p.labels for p in (axial, coronal, sagittal)] == [tuple("RLAP"), tuple("RLSI"), tuple("APSI")]
    assert axial.step == (2, 2) and coronal.step == (2, 3)


def test_every_storage_order_gives_the_same_picture():
    values = noise(GRID)
    for axes, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        volume, grid = upright(reorder(values, axes, flips), GRID.reordered(axes, flips))
        np.testing.assert_array_equal(volume, values.numpy())
        np.testing.assert_allclose(grid.affine, GRID.affine)


def test_window_ignores_a_hot_voxel_and_background():
    volume = np.zeros((10, 10, 10), np.float32)
    volume[2:8, 2:8, 2:8] = np.linspace(0.5, 1, 216).reshape(6, 6, 6)
    hot = volume.copy()
    hot[0, 0, 0] = 1e6
    assert window(volume).max() == 1 and window(volume)[0, 0, 0] == 0
    assert np.abs(window(hot)[2:8, 2:8, 2:8] - window(volume)[2:8, 2:8, 2:8]).max() < 0.05


def test_checkerboard_squares_are_square_in_millimeters():
    board = checkerboard(np.zeros((20, 10)), np.ones((20, 10)), (4.0, 1.0), 8.0)
    assert (board[:8, :2] == 0).all() and (board[8:16, :2] == 1).all() and (board[:8, 2:4] == 1).all()


def test_undeformed_lines_are_straight_and_a_shift_is_removed():
    plane = planes_through(GRID, [6, 7, 5])[1]
    for u in (torch.zeros(3, *GRID.shape), torch.full((3, *GRID.shape), 5.0)):
        for line in deformed_lines(u, GRID, plane, 6.0):
            assert np.isclose(np.ptp(line, axis=0).min(), 0, atol=1e-6)


def test_lines_go_where_the_points_go():
    plane, u = planes_through(GRID, [6, 7, 5])[1], torch.zeros(3, *GRID.shape)
    u[0, 11] = 12.0  # the last sheet towards the patient's right, which is the left of the picture
    line = deformed_lines(u, GRID, plane, 2.0)[0]
    assert line[:, 0].min() == pytest.approx(-11.0)  # 12 mm minus the mean of 1 mm
