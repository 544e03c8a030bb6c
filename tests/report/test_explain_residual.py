# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Maps of the local residual: those of the loss, of the images that the engine sees, in any storage order."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch

from monai_locor import InputError
from monai_locor.geometry import Grid, reorder
from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.windows import AxisWindows
from monai_locor.registration import RegistrationEngine, Stage, Start
from monai_locor.registration.start.prepare import prepare
from monai_locor.report.explain.residual import basis_of, fit_windows
from monai_locor.visualize import local_residual, residual_maps, samples_of_images, samples_of_result

from ..phantoms import image
from .fit_phantom import CONFIG, SHAPES, aligned, bases, changed, displaced, fit_grid, smooth


def loss_of(samples, basis) -> LocalLearnedBasisCRLoss:
    c = samples.config
    how = {name: getattr(c, name) for name in ("truncated", "ridge", "eps", "form", "min_mass")}
    how |= {"kernel_sigma": samples.windows.sigma, "stride": samples.windows.stride}
    return LocalLearnedBasisCRLoss(
        samples.dims, samples.moving.shape[1], basis=basis, **how, reduction="none", rescale=False
    ).eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("form", ["log", "normalized"])
@pytest.mark.parametrize(("derivative", "basis"), [("none", "learned"), ("basis", "polynomial"), ("both", "learned")])
def test_residuals_are_those_of_the_loss(dims, form, derivative, basis):
    config = changed(form=form, derivative=derivative, stride=2)  # the loss has at least four windows along an axis
    fixed, moving = aligned(dims)
    moving[..., :4] = torch.nan  # some windows are empty, some partly so
    samples = samples_of_images(fixed, moving, basis=bases(config), config=config).double()
    module = basis_of(samples, basis)
    values = loss_of(samples, module)(samples.moving, samples.fixed, samples.weight)
    shift = torch.zeros((), dtype=torch.float64)
    axes = zip(samples.grid.shape, samples.windows.sigma, samples.windows.stride)
    windows = [AxisWindows.gaussian(n, sigma, stride, config.truncated, shift) for n, sigma, stride in axes]
    found = fit_windows(samples, module, windows)
    expected = values.exp() - config.eps if form == "log" else values
    seen = found.counts.expand_as(values)
    assert 0 < seen.sum() < seen.numel() and (values[~seen] == 0).all()
    torch.testing.assert_close(found.residual[seen], expected[seen], atol=1e-8, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_function_of_the_other_image_leaves_almost_nothing(dims):
    fixed, moving = aligned(dims)
    polynomial = changed(basis="polynomial", derivative="none", ridge=1e-6)
    good = local_residual(fixed, moving, basis=None, config=polynomial)
    other = local_residual(fixed, image(smooth(fit_grid(dims), 7), fit_grid(dims)), basis=None, config=polynomial)
    assert good.shape == fixed.shape and float(good.max()) < 2e-6
    assert float(other.median()) > 20 * float(good.median())


def test_the_map_is_the_windows_between_which_it_interpolates():
    grid = Grid(SHAPES[3], np.eye(4))
    fixed, moving = (image(smooth(grid, seed), grid) for seed in (0, 7))
    found = local_residual(fixed, moving, basis=bases(CONFIG), config=CONFIG)
    samples = samples_of_images(fixed, moving, basis=bases(CONFIG), config=CONFIG)
    assert samples.grid.shape == grid.shape  # no background was cut off
    values = (loss_of(samples, samples.learned)(samples.moving, samples.fixed, samples.weight).exp() - CONFIG.eps)[0, 0]
    # 13 voxels, 5 windows 3 apart: on voxels 0, 3, ...; 12 voxels, 4 windows: between 1 and 2, ...; 14 voxels, 5: 0.5, 3.5, ...
    expected = values[2, 1, 2:4].mean() * 0.5 + values[2, 2, 2:4].mean() * 0.5
    assert float(found[0, 6, 5:7, 8].mean()) == pytest.approx(float(expected), rel=1e-4)
    assert float(found.max()) <= float(values.max()) * 1.0001 and float(found.min()) >= float(values.min()) * 0.9999


def test_nothing_is_known_where_nothing_counts():
    fixed, moving = aligned(3)
    mask = torch.zeros(1, *fit_grid(3).shape)
    mask[:, 3:10] = 1
    known = local_residual(fixed, moving, basis=None, config=CONFIG, mask=mask)[0].isfinite()
    assert known[4:9].all() and not known[:1].any() and not known[-1:].any()
    moving[:, :, :5] = torch.nan
    known = local_residual(fixed, moving, basis=None, config=CONFIG)[0].isfinite()
    assert not known[:, :2].any() and known[:, 8:].all()


def test_every_storage_order_gives_the_same_map():
    fixed, moving = aligned(3, turn=0.3)
    grid = Grid.of(fixed)
    expected = local_residual(fixed, moving, basis=bases(CONFIG), config=CONFIG)
    for axes, flips in list(product(permutations(range(3)), product((False, True), repeat=3)))[::5]:
        stored = grid.reordered(axes, flips)
        pair = [image(reorder(torch.as_tensor(i.as_tensor()), axes, flips), stored) for i in (fixed, moving)]
        found = local_residual(*pair, basis=bases(CONFIG), config=CONFIG)
        torch.testing.assert_close(found, reorder(expected, axes, flips), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_registration_lowers_the_residual(dims):
    config = changed(basis="polynomial")
    result, fixed, moving = displaced(dims, config)
    before, after = residual_maps(result, fixed, moving)
    assert before.shape == after.shape == fixed.shape
    inner = (0, *(slice(3, -3),) * dims)
    assert float(after[inner].nanmedian()) < 0.2 * float(before[inner].nanmedian())
    # what was deformed before it was differentiated is about the same
    direct = local_residual(fixed, result.warp_moving(moving), basis=None, config=config)
    assert float(direct[inner].nanmedian()) < 0.4 * float(before[inner].nanmedian())


@pytest.mark.parametrize(("factor", "derivative", "masked"), [(1, "basis", False), (2, "both", True)])
def test_samples_are_those_of_the_engine(factor, derivative, masked):
    config = changed(stages=(Stage(factor, 1),), derivative=derivative)
    result, fixed, moving = displaced(3, config)
    mask = torch.ones(1, *fit_grid(3).shape)
    mask[:, :3] = 0
    masks = {"fixed_mask": image(mask, fit_grid(3)), "moving_mask": image(mask.flip(1), fit_grid(3))} if masked else {}
    _, after = samples_of_result(result, fixed, moving, **masks)
    device = torch.device("cpu")
    weights = [masks[name].as_tensor() if masked else None for name in ("fixed_mask", "moving_mask")]
    prepared = [prepare(i, w, config.quantile, device) for i, w in zip((fixed, moving), weights, strict=True)]
    matrix = np.eye(4)
    matrix[:3, 3] = result.forward_mm[:, 0, 0, 0]
    engine = RegistrationEngine(Start(tuple(prepared), matrix), config)
    engine.enter(config.stages[0])
    seen = {}

    def listen(pred, target, mask):
        seen.update(moving=pred, fixed=target, weight=mask)
        return pred.sum()

    engine.losses[0].forward = listen
    with torch.no_grad():
        engine._similarity(0, engine.affine(), None)
    for name, expected in seen.items():
        torch.testing.assert_close(getattr(after, name), expected, atol=2e-5, rtol=1e-4)


def test_before_is_where_the_registration_starts():
    result, fixed, moving = displaced(3, changed(initialization="centers"))
    grid = Grid.of(moving)
    away = grid.affine.copy()
    away[:3, 3] += [500, 0, 0]
    moved = image(moving.as_tensor(), Grid(grid.shape, away))
    first = residual_maps(result, fixed, moving)[0]
    result.affine[0, 3] = 500  # the images must meet
    second = residual_maps(result, fixed, moved)[0]
    inner = (0, *(slice(3, -3),) * 3)  # at 500 mm, float32 does not know what is just inside
    torch.testing.assert_close(first[inner], second[inner], rtol=1e-2, atol=1e-6)


def test_before_may_be_another_start():
    result, fixed, moving = displaced(3)
    matrix = np.eye(4)
    matrix[:3, 3] = result.forward_mm[:, 0, 0, 0]
    before, after = residual_maps(result, fixed, moving, initial=matrix)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-7, equal_nan=True)


def test_bad_input_is_refused():
    fixed, moving = aligned(3)
    with pytest.raises(InputError, match="no voxel of the mask"):
        local_residual(fixed, moving, basis=None, config=CONFIG, mask=torch.zeros(1, *fit_grid(3).shape))
    with pytest.raises(InputError, match="no voxel of the mask"):
        local_residual(fixed, torch.full_like(moving, torch.nan), basis=None, config=CONFIG)
    with pytest.raises(InputError, match="in_channels"):
        local_residual(fixed, moving, basis=bases(changed(derivative="none")), config=CONFIG)
    with pytest.raises(ValueError, match=r"\(1, 13, 12, 14\)"):
        local_residual(fixed, moving[:, 1:], basis=None, config=CONFIG)
    with pytest.raises(ValueError, match="mask"):
        local_residual(fixed, moving, basis=None, config=CONFIG, mask=torch.ones(1, 2, 2, 2))
    result, fixed, moving = displaced(3)
    with pytest.raises(InputError, match=r"fixed image has shape \(12, 12, 14\)"):
        residual_maps(result, image(fixed.as_tensor()[:, 1:], Grid((12, 12, 14), fit_grid(3).affine)), moving)
    with pytest.raises(InputError, match="initial must be a finite 4x4"):
        residual_maps(result, fixed, moving, initial=np.eye(3))
