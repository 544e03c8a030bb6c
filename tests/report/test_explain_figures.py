# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Figures: what is drawn is what was fitted, where it says."""

from __future__ import annotations

import builtins
import itertools
import math
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monai_locor import InputError
from monai_locor.networks.basis import PolynomialBasis
from monai_locor.report.explain.fit_panels import (
    MAGNITUDE_QUANTILES,
    Limits,
    draw_basis,
    draw_fit,
    draw_surface,
    function_names,
    weighted_quantile,
)
from monai_locor.report.explain.image_panels import PLANES, cut_through, draw_image, residual_norm
from monai_locor.visualize import explain_fit, fit_at, fit_figure, samples_of_result, voxel_point

from .fit_phantom import changed, displaced, fit_grid

pytest.importorskip("matplotlib")


def new_axis() -> Any:
    from matplotlib.figure import Figure

    return Figure().subplots()


def a_fit(derivative: str = "basis", dims: int = 3):
    result, fixed, moving = displaced(dims, changed(derivative=derivative))
    samples = samples_of_result(result, fixed, moving)[0]
    return fit_at(samples, samples.world([6.0, 5.0, 7.0][:dims]))


@pytest.mark.parametrize("derivative", ["none", "basis"])
def test_dots_are_the_samples_and_lines_the_fitted_function(derivative):
    fit, axis = a_fit(derivative), new_axis()
    draw_fit(axis, fit)
    stems, dots = axis.collections
    order = np.argsort(-fit.weights)
    np.testing.assert_allclose(dots.get_offsets(), np.stack([fit.moving[:, 0], fit.fixed], 1)[order])
    assert (np.diff(dots.get_sizes()) <= 0).all()
    for number, segment in enumerate(stems.get_segments()):
        np.testing.assert_allclose(segment[:, 1], [fit.fixed[number], fit.fitted[number]])
    levels = {weighted_quantile(fit.moving[:, -1], fit.weights, q) for q in MAGNITUDE_QUANTILES}
    assert len(axis.lines) == (1 if derivative == "none" else 9)
    for line in axis.lines:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        points = [x[:, None]] if derivative == "none" else [np.stack([x, np.full_like(x, g)], 1) for g in levels]
        assert any(np.allclose(fit(p), y) for p in points)


def test_surface_has_the_intensity_across_and_the_magnitude_upwards():
    from matplotlib import colormaps

    fit, axis = a_fit(), new_axis()
    limits = Limits.of([fit])
    draw_surface(axis, fit, limits)
    (picture,), (dots,) = axis.images, axis.collections
    colors = np.asarray(picture.get_array())
    assert picture.origin == "lower" and list(picture.get_extent()) == [*limits.moving, *limits.magnitude]
    rows, columns = colors.shape[:2]
    for row, column in ((0, columns - 1), (rows - 1, 0), (rows // 3, columns // 2)):
        m = limits.moving[0] + np.ptp(limits.moving) * column / (columns - 1)
        g = limits.magnitude[0] + np.ptp(limits.magnitude) * row / (rows - 1)
        value = np.clip((fit(np.array([[m, g]]))[0] - limits.fixed[0]) / np.ptp(limits.fixed), 0, 1)
        np.testing.assert_allclose(colors[row, column, :3], colormaps["viridis"](value)[:3], atol=1e-6)
    np.testing.assert_allclose(dots.get_offsets(), fit.moving)
    np.testing.assert_allclose(np.asarray(dots.get_array()), fit.fixed)
    assert colors[..., 3].max() > 0.9 and colors[..., 3].min() < 0.5  # fades away from the samples


def test_basis_functions_are_drawn_at_the_windows_magnitude():
    fit, axis = a_fit(), new_axis()
    draw_basis(axis, fit)
    named = [line for line in axis.lines if not line.get_label().startswith("_")]
    assert len(named) == 5 and len(axis.lines) == 15
    level = weighted_quantile(fit.moving[:, 1], fit.weights, 0.5)
    for number, line in enumerate(named):
        x = np.asarray(line.get_xdata())
        expected = fit.psi_at(np.stack([x, np.full_like(x, level)], 1))[:, number]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)


@pytest.mark.parametrize(("channels", "degree"), [(1, 3), (2, 3), (2, 0)])
def test_names_of_monomials_are_what_they_are(channels, degree):
    basis, values = PolynomialBasis(channels, degree), {"m": 3.0, "g": 5.0}
    found = basis(torch.tensor([values[c] for c in "mg"[:channels]]).reshape(1, -1, 1))[0, :, 0]
    names = function_names(basis, basis.num_basis)
    for name, value in zip(names, found, strict=True):
        formula = re.sub(r"\^\{(\d)\}", r"**\1", name.strip("$")).replace(" ", "*")
        assert eval(formula, {}, values) == float(value)
    assert function_names(nn.Identity(), 2) == [r"$\psi_{1}$", r"$\psi_{2}$"]


@pytest.mark.parametrize(("dims", "name"), [(2, "axial"), *itertools.product([3], PLANES)])
def test_the_window_is_marked_where_it_is(dims, name):
    result, fixed, moving = displaced(dims)
    samples = samples_of_result(result, fixed, moving)[1]
    voxel = [4, 8, 3][:dims]
    cut = cut_through(samples, np.array(voxel, dtype=float), name)
    volume = np.zeros(samples.grid.shape)
    volume[tuple(voxel)] = 1
    axis = new_axis()
    draw_image(axis, volume, cut)
    picture = np.asarray(axis.images[0].get_array())
    (row, column) = np.argwhere(picture)[0]
    rows, columns = picture.shape
    assert picture.sum() == 1
    x, y = (column + 0.5) * cut.size[0] / columns, (rows - row - 0.5) * cut.size[1] / rows
    assert cut.center == pytest.approx((x, y))
    box = axis.patches[0]
    assert (box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2) == pytest.approx((x, y))
    reach = math.floor(3 * samples.windows.sigma[cut.plane.across])  # samples on either side
    assert reach >= 2 and box.get_width() == pytest.approx((2 * reach + 1) * cut.plane.step[0])
    (closer,) = axis.child_axes
    assert sum(closer.get_xlim()) / 2 == pytest.approx(x) and sum(closer.get_ylim()) / 2 == pytest.approx(y)


def test_residuals_are_compared_on_one_scale():
    norm = residual_norm([np.array([[1e-7, np.nan]]), np.array([[0.5, 1e-3]])], 1e-5)
    assert norm.vmin == 1e-5 and 0.4 < norm.vmax <= 0.5
    assert residual_norm([np.full((2, 2), np.nan)], 1e-5).vmax == 1


def test_weighted_quantiles():
    values, weights = np.array([5.0, 1.0, 3.0]), np.array([0.2, 0.5, 0.3])
    assert [weighted_quantile(values, weights, q) for q in (0, 0.5, 0.51, 0.8, 1)] == [1, 1, 3, 3, 5]


def test_explains_a_pair(tmp_path):
    result, fixed, moving = displaced(3)
    figure = explain_fit(result, fixed, moving, voxel=[6, 5, 7], path=tmp_path / "new" / "a.png", dpi=40)
    assert (tmp_path / "new" / "a.png").stat().st_size > 1000 and len(list((tmp_path / "new").iterdir())) == 1
    titles = [axis.get_title() for axis in figure.axes]
    assert "before, learned basis" in titles and "after, polynomial basis" in titles
    place = ", ".join(f"{x:.1f}" for x in voxel_point(fit_grid(3), [6, 5, 7])).replace("-", "\N{MINUS SIGN}")
    assert figure.get_suptitle() == f"Local fit around ({place}) mm"
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [{"derivative": "none"}, {"derivative": "both"}, {"basis": "polynomial"}, {"form": "normalized", "derivative": "none"}],
)
@pytest.mark.parametrize("choose", ["gain", "worst"])
def test_explains_every_kind_of_result(tmp_path, dims, settings, choose):
    result, fixed, moving = displaced(dims, changed(**settings))
    figure = explain_fit(result, fixed, moving, path=tmp_path / "a.pdf", choose=choose, plane="sagittal", title="a title")
    assert figure.get_suptitle() == "a title" and (tmp_path / "a.pdf").stat().st_size > 1000
    columns = 2 if settings.get("basis") == "polynomial" else 3
    assert sum("basis" in axis.get_title() for axis in figure.axes) == columns


def test_says_where_nothing_was_seen_before():
    result, fixed, moving = displaced(2)
    away = np.eye(3)
    away[0, 2] = 1000
    before, after = samples_of_result(result, fixed, moving, initial=away)
    figure = fit_figure(before, after, voxel_point(fit_grid(2), [13, 11]))
    said = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert said.count("no data of the moving image") == 2


def test_bad_input_is_refused_before_the_work(tmp_path, monkeypatch):
    result, fixed, moving = displaced(3)
    with pytest.raises(InputError, match=r"unknown format; use one of the extensions .*\.png"):
        explain_fit(result, "missing.nii.gz", moving, path=tmp_path / "a.xyz")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file of this name is in the way"):
        explain_fit(result, "missing.nii.gz", moving, path=tmp_path / "file" / "a.png")
    with pytest.raises(InputError, match="not both"):
        explain_fit(result, fixed, moving, [0, 0, 0], voxel=[0, 0, 0])
    with pytest.raises(InputError, match="outside the fixed image"):
        explain_fit(result, fixed, moving, [500, 0, 0])
    with pytest.raises(InputError, match="gain or worst"):
        explain_fit(result, fixed, moving, choose="best")
    with pytest.raises(InputError, match="axial, coronal, sagittal"):
        explain_fit(result, fixed, moving, voxel=[6, 5, 7], plane="oblique")


def test_names_the_extra_when_matplotlib_is_missing(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    result, fixed, moving = displaced(2)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"monai-locor\[plot\]"):
        explain_fit(result, fixed, moving, voxel=[13, 11])
