# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The fit of one window: its numbers against an independent least squares solution, and where it can be asked for."""

from __future__ import annotations

import dataclasses
from itertools import permutations, product

import numpy as np
import pytest
import torch

from monai_locor import InputError
from monai_locor.geometry import Grid, reorder
from monai_locor.networks.basis import LearnedBasis, PolynomialBasis
from monai_locor.report.explain.fit import plane_residual
from monai_locor.visualize import fit_at, interesting_point, samples_of_images, samples_of_result, voxel_point

from ..phantoms import image
from .fit_phantom import CONFIG, SHAPES, aligned, bases, changed, displaced, fit_grid, result_of, smooth

MIDDLE = {2: [13.0, 11.0], 3: [6.0, 5.0, 7.0]}


def unrelated(dims: int = 3, config=CONFIG, mask: torch.Tensor | None = None):
    """Samples with a residual worth the name."""
    grid = fit_grid(dims, 0.2)
    fixed, moving = image(smooth(grid, 1), grid), image(smooth(grid, 2), grid)
    basis = None if config.basis == "polynomial" else bases(config)
    return samples_of_images(fixed, moving, basis=basis, config=config, mask=mask)


def gaussian(samples, index: np.ndarray) -> np.ndarray:
    """Weights of all samples in the window around an index, written down once more, ``(*grid)``, sum one."""
    c = samples.config
    out = samples.weight[0, 0].double().numpy().copy()
    spacing = samples.grid.spacing  # of the stage with samples on the voxels
    for axis, (n, p) in enumerate(zip(samples.grid.shape, index, strict=True)):
        distance = np.abs(np.arange(n) - p) * spacing[axis]
        sigma = c.kernel_sigma * np.prod(spacing) ** (1 / samples.dims)  # mm, equal along all axes
        row = np.exp(-(distance**2) / (2 * sigma**2)) * (distance <= c.truncated * sigma)
        out *= row.reshape(-1, *[1] * (samples.dims - 1 - axis))
    return out / out.sum()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("offset", [0.0, 0.37])
@pytest.mark.parametrize(("derivative", "basis"), [("none", "learned"), ("both", "learned"), ("basis", "polynomial")])
def test_fit_is_the_weighted_ridge_solution(dims, offset, derivative, basis):
    mask = 0.4 + 0.6 * torch.rand(1, *SHAPES[dims])
    samples = unrelated(dims, changed(derivative=derivative), mask)
    index = np.array(MIDDLE[dims]) + offset
    fit = fit_at(samples, samples.world(index), basis)
    weights = gaussian(samples, index)
    inside = weights > 0
    np.testing.assert_allclose(fit.weights, weights[inside], atol=1e-6)
    np.testing.assert_allclose(fit.positions_mm, samples.grid.points()[inside], atol=1e-9)
    np.testing.assert_array_equal(fit.fixed, samples.fixed[0, 0].double().numpy()[inside])
    np.testing.assert_array_equal(fit.moving, samples.moving[0].double().numpy()[:, inside].T)
    # min sum w (t - psi theta)^2 + ridge |theta|^2, as one least squares problem
    roots, ridge = np.sqrt(fit.weights), samples.config.ridge
    rows = np.vstack([roots[:, None] * fit.psi, np.sqrt(ridge) * np.eye(fit.psi.shape[1])])
    theta = np.linalg.lstsq(rows, np.concatenate([roots * fit.fixed, np.zeros(fit.psi.shape[1])]), rcond=None)[0]
    np.testing.assert_allclose(fit.psi @ fit.theta, fit.psi @ theta, atol=1e-8)
    assert fit.residual == pytest.approx(fit.weights @ (fit.fixed - fit.psi @ theta) ** 2, abs=1e-8)
    assert fit.residual == pytest.approx(fit.mean_square, abs=1e-10) and fit.residual > 1e-5
    np.testing.assert_allclose(fit(fit.moving), fit.fitted, atol=1e-12)


def test_normalized_form_fits_the_standardized_image():
    log, normalized = (fit_at(s := unrelated(3, changed(form=f)), s.world(MIDDLE[3])) for f in ("log", "normalized"))
    w, t = log.weights, log.fixed
    deviation = np.sqrt(w @ (t - w @ t) ** 2 + CONFIG.eps) + CONFIG.eps
    assert normalized.mean == pytest.approx(w @ t) and normalized.deviation == pytest.approx(deviation)
    roots = np.sqrt(w)
    rows = np.vstack([roots[:, None] * log.psi, np.sqrt(CONFIG.ridge) * np.eye(5)])
    standard = (t - w @ t) / deviation
    theta = np.linalg.lstsq(rows, np.concatenate([roots * standard, np.zeros(5)]), rcond=None)[0]
    # the loss takes the variance for one, which its floor keeps it from being
    expected = w @ (standard - log.psi @ theta) ** 2 + 1 - w @ standard**2
    assert normalized.residual == pytest.approx(expected, abs=1e-8)
    np.testing.assert_allclose(normalized.fitted, normalized.mean + deviation * log.psi @ theta, atol=1e-8)
    assert 0 < normalized.explained < 1 and normalized.explained == pytest.approx(1 - expected, abs=5e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_function_of_the_moving_image_is_found(dims):
    fixed, moving = aligned(dims)
    samples = samples_of_images(fixed, moving, basis=None, config=changed(derivative="none", ridge=1e-9))
    fit = fit_at(samples, samples.world(MIDDLE[dims]))
    assert fit.residual < 1e-7 and fit.explained > 0.999
    middle = fit.moving[np.argmax(fit.weights)]
    assert fit(middle[None])[0] == pytest.approx(fit.fixed[np.argmax(fit.weights)], abs=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_map_of_a_plane_is_made_of_such_fits(dims):
    mask = torch.ones(1, *SHAPES[dims])
    mask[:, :4] = 0
    samples = unrelated(dims, CONFIG, mask)
    axis, index = (1, 9) if dims == 3 else (None, 0)
    found = plane_residual(samples, "polynomial", axis, index)
    holes = 0
    for pixel in [(0, 0), (2, 3), (3, 8), (7, 6), (12, 11)]:
        voxel = np.array(pixel if axis is None else (pixel[0], index, pixel[1]), dtype=float)
        if np.isnan(found[pixel]):
            holes += 1
            with pytest.raises(InputError, match="no local fit"):
                fit_at(samples, samples.world(voxel), "polynomial")
        else:
            assert found[pixel] == pytest.approx(fit_at(samples, samples.world(voxel), "polynomial").residual, abs=1e-6)
    assert 0 < holes < 4


def test_every_storage_order_gives_the_same_fit():
    grid = fit_grid(3, 0.3)
    fixed, moving = image(smooth(grid, 1), grid), image(smooth(grid, 2), grid)
    result = result_of(fixed, moving, torch.zeros(3, *grid.shape), CONFIG)
    point = voxel_point(grid, [6, 5, 7])
    expected = fit_at(samples_of_result(result, fixed, moving)[1], point)
    for axes, flips in list(product(permutations(range(3)), product((False, True), repeat=3)))[3::9]:
        stored = grid.reordered(axes, flips)
        pair = [image(reorder(i.as_tensor(), axes, flips), stored) for i in (fixed, moving)]
        turned = result_of(*pair, torch.zeros(3, *stored.shape), CONFIG)
        fit = fit_at(samples_of_result(turned, *pair)[1], point)
        assert fit.residual == pytest.approx(expected.residual, rel=1e-4)
        np.testing.assert_allclose(np.sort(fit.fixed), np.sort(expected.fixed), atol=1e-5)
        np.testing.assert_allclose(fit.theta, expected.theta, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("choose", ["gain", "worst"])
def test_interesting_point_is_where_something_happens(choose):
    result, fixed, moving = displaced(3, changed(basis="polynomial"))
    samples = samples_of_result(result, fixed, moving)[1]
    spoilt = samples.fixed.clone()
    spoilt[0, 0, 4:7, 5:8, 6:9] += torch.rand(3, 3, 3)
    other = dataclasses.replace(samples, fixed=spoilt)
    point = interesting_point(other, samples, "gain") if choose == "gain" else interesting_point(samples, other, "worst")
    assert np.abs(samples.index(point) - [5, 6, 7]).max() <= 1.01
    # where nothing is known of before, the worst place is what is left
    nothing = dataclasses.replace(samples, weight=torch.zeros_like(samples.weight))
    assert np.abs(samples.index(interesting_point(nothing, other)) - [5, 6, 7]).max() <= 1.01
    with pytest.raises(InputError, match="no valid overlap"):
        interesting_point(samples, nothing)
    with pytest.raises(InputError, match="gain or worst"):
        interesting_point(samples, samples, "best")


def test_places_without_a_fit_are_refused():
    mask = torch.ones(1, *SHAPES[3])
    mask[:, :6] = 0
    samples = unrelated(3, CONFIG, mask)
    with pytest.raises(InputError, match="outside the fixed image"):
        fit_at(samples, samples.world([-3.0, 5, 5]))
    with pytest.raises(InputError, match="3 finite coordinates"):
        fit_at(samples, [1.0, 2.0])
    with pytest.raises(InputError, match="3 finite coordinates"):
        fit_at(samples, [1.0, 2.0, np.nan])
    with pytest.raises(InputError, match=r"no local fit .*only 0%"):
        fit_at(samples, samples.world([1.0, 5, 5]))
    with pytest.raises(InputError, match="channel"):
        fit_at(samples, samples.world([9.0, 5, 5]), channel=1)
    for voxel in ([13, 0, 0], [-1, 0, 0], [0, 0]):
        with pytest.raises(InputError, match="voxel must lie in the image"):
            voxel_point(fit_grid(3), voxel)


def test_background_around_the_foreground_is_refused():
    grid = Grid((30, 30), np.eye(3))
    values = torch.zeros(1, 30, 30)
    values[:, 20:, 20:] = smooth(Grid((10, 10), np.eye(3)))
    samples = samples_of_images(image(values, grid), image(values, grid), basis=None, config=CONFIG)
    with pytest.raises(InputError, match="outside the foreground"):
        fit_at(samples, [2.0, 2.0])


def test_bases_that_do_not_fit_are_refused():
    samples = unrelated(3, changed(basis="polynomial"))
    point = samples.world(MIDDLE[3])
    with pytest.raises(InputError, match="learned no basis"):
        fit_at(samples, point, "learned")
    with pytest.raises(InputError, match="learned, polynomial or a module"):
        fit_at(samples, point, "fourier")
    with pytest.raises(InputError, match="for 1 channels"):
        fit_at(samples, point, LearnedBasis(1))
    assert fit_at(samples, point, PolynomialBasis(2, 1)).residual == fit_at(samples, point, degree=1).residual
    other = dataclasses.replace(samples, config=changed(similarity_options={"degree": 1}))
    assert fit_at(other, point).residual == fit_at(samples, point, degree=1).residual > fit_at(samples, point).residual
