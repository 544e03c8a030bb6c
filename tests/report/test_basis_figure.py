# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pictures of learned bases: what is drawn is what the basis gives, where its axes say."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from monai_locor.networks import LearnedBasis
from monai_locor.report.pictures.basis import basis_picture

pytest.importorskip("matplotlib")


def test_curves_are_the_values_over_the_intensity():
    basis = LearnedBasis(1, 7)
    figure = basis_picture(basis, "functions of the moving image")
    (axis,) = figure.axes
    assert len(axis.lines) == 7
    for number, line in enumerate(axis.lines):
        x = torch.from_numpy(np.asarray(line.get_xdata())).float()
        assert x.min() == 0 and x.max() == 1
        np.testing.assert_allclose(line.get_ydata(), basis(x[None, None])[0, number].detach(), atol=1e-6)
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == 7


@pytest.mark.parametrize(("channels", "functions"), [(2, 5), (2, 1), (2, 7), (3, 2)])
def test_maps_have_the_intensity_across_and_the_magnitude_upwards(channels, functions):
    basis = LearnedBasis(channels, functions).double()
    figure = basis_picture(basis)
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == functions
    for number, axis in enumerate(drawn):
        image: Any = axis.images[0]
        surface = np.asarray(image.get_array())
        assert image.origin == "lower" and list(image.get_extent()) == [0, 1, 0, 1]
        rows, columns = surface.shape
        point = torch.zeros(1, channels, 1, dtype=torch.float64)
        for row, column in ((0, columns - 1), (rows - 1, 0), (rows // 4, columns // 2)):
            point[0, 0], point[0, 1] = column / (columns - 1), row / (rows - 1)
            assert surface[row, column] == pytest.approx(float(basis(point).detach()[0, number, 0]), abs=1e-6)


def test_the_basis_and_the_callers_matplotlib_stay_as_they_are():
    matplotlib = pytest.importorskip("matplotlib")
    basis = LearnedBasis(2).eval()
    backend, state = matplotlib.rcParams._get("backend"), torch.get_rng_state()
    basis_picture(basis).canvas.draw()
    assert not basis.training and all(p.grad is None for p in basis.parameters())
    assert torch.equal(state, torch.get_rng_state()) and matplotlib.rcParams._get("backend") == backend
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_constant_function_is_drawn():
    basis = LearnedBasis(2, 3)
    for p in basis.parameters():
        torch.nn.init.zeros_(p)
    basis_picture(basis, "title").canvas.draw()


def test_can_be_written_to_a_file(tmp_path):
    figure: Any = basis_picture(LearnedBasis(2), "title")
    figure.canvas.print_figure(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
