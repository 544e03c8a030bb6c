# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Several images a side: what one of them does not show, another does."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import InputError, RegistrationConfig
from monai_locor.io import write_image
from monai_locor.losses.compare import takes_mask
from monai_locor.registration import Stage
from monai_locor.registration.channels import ChannelLosses, read_channels
from monai_locor.registration.manifest import RunManifest
from monai_locor.registration.pairing import checked_weights
from monai_locor.registration.similarity import SIMILARITIES

from ..parameters import mostly_slow
from ..phantoms import CUBE, PLANE, anatomy, grid_of, image, other_modality, pair, small_deformation
from .short_runs import SHORT, TINY, errors, run

WIDE = dataclasses.replace(TINY, region="image")  # windows that do not depend on what is seen


def halves(grid=PLANE):
    """The first pair shows the left half alone, the second the right half."""
    truth = small_deformation(grid)
    moved = grid.points() + truth.movedim(0, -1).double().numpy()
    out = []
    for sign in (-1, 1):
        fixed, moving = ((np.sign(p[..., 0]) == sign) * (anatomy(p) + 1.2) for p in (moved, grid.points()))
        out.append((image(other_modality(fixed), grid), image(moving, grid)))
    return [f for f, _ in out], [m for _, m in out], truth


@pytest.fixture(scope="module")
def images():
    return halves()


@pytest.mark.slow
def test_two_pairs_find_what_neither_finds_alone(images):
    fixed, moving, truth = images
    both = errors(run(fixed, moving, SHORT), truth)[1]
    alone = [errors(run(f, m, SHORT), truth)[1] for f, m in zip(fixed, moving, strict=True)]
    assert both < 0.6 * min(alone)


@pytest.mark.parametrize("grid", mostly_slow([PLANE, grid_of((20, 22, 18), (3.0, 3.0, 3.0))]), ids=["plane", "cube"])
@pytest.mark.parametrize("derivative", mostly_slow(["both", "none", "basis"]))
def test_of_one_image_a_side_nothing_changes(grid, derivative):
    fixed, moving, _ = pair(grid, grid)
    config = dataclasses.replace(TINY, derivative=derivative)
    plain, listed = run(fixed, moving, config), run([fixed], [moving], config, channel_weights=[3.0])
    assert torch.equal(plain.forward_mm, listed.forward_mm) and plain.basis is not None and listed.basis is not None


@pytest.mark.slow
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_every_measure(images, similarity):
    found = run(*images[:2], TINY, similarity=similarity)
    alone = run(images[0][0], images[1][0], TINY, similarity=similarity)
    assert not torch.equal(found.forward_mm, alone.forward_mm) and found.forward_mm.isfinite().all() and found.basis is None


def test_the_same_pair_twice_is_one_with_two_bases(images):
    """A measure that learns nothing gives the same."""
    one = run(images[0][0], images[1][0], WIDE, similarity="mutual_information")
    two = run([images[0][0]] * 2, [images[1][0]] * 2, WIDE, similarity="mutual_information", channel_weights=[1, 5])
    torch.testing.assert_close(one.forward_mm, two.forward_mm, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_weights_count(images):
    options = {"similarity": "mutual_information"}
    whole = dataclasses.replace(WIDE, padding="never")  # alone, the first pair would be taken for a half that is padded
    first = run(images[0][0], images[1][0], whole, **options).forward_mm
    apart = [
        float((run(*images[:2], whole, channel_weights=weights, **options).forward_mm - first).abs().mean())
        for weights in ([1, 1e-6], [1, 0.2], [1, 5])
    ]
    assert apart[0] < 0.1 * apart[1] and apart[1] < apart[2]


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["fixed", "moving"])
def test_one_image_goes_with_each_of_the_others(images, alone):
    fixed, moving = images[0][0], images[1][0]
    several = ([fixed] * 2, moving) if alone == "moving" else (fixed, [moving] * 2)
    written_out = run([fixed] * 2, [moving] * 2, TINY)
    assert torch.equal(run(*several, TINY).forward_mm, written_out.forward_mm)


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_another_grid_is_resampled_in_the_world(role, caplog):
    fixed, moving, _ = pair(PLANE, PLANE)
    finer = grid_of((100, 90), (0.75, 0.75), (1.0, 0.5))
    values = anatomy(finer.points()) if role == "moving" else other_modality(anatomy(finer.points()))
    source = [moving if role == "moving" else fixed, image(values, finer)]
    with caplog.at_level(logging.WARNING):
        channels, valid = read_channels(source, role)
    assert channels.shape == (2, *PLANE.shape) and f"differs from that of the first {role} image; resampled" in caplog.text
    counts = torch.ones(PLANE.shape, dtype=torch.bool) if valid is None else valid[0]
    expected = torch.from_numpy(anatomy(PLANE.points()) if role == "moving" else other_modality(anatomy(PLANE.points())))
    assert (channels[1] - expected)[counts].abs().max() < 0.1 and counts.float().mean() > 0.8


def test_what_one_of_them_does_not_show_does_not_count():
    small = grid_of((20, 44), (1.5, 1.5), (0.0, 0.0))
    channels, valid = read_channels([image(anatomy(g.points()), g) for g in (PLANE, small)], "fixed")
    assert 0.3 < float(valid.float().mean()) < 0.5 and channels.isfinite().all()
    holes = anatomy(PLANE.points())
    holes[:5] = np.nan
    _, valid = read_channels([image(anatomy(PLANE.points()), PLANE), image(holes, PLANE)], "fixed")
    assert not valid[:, :5].any() and valid[:, 5:].all()


def test_with_masks_and_verdict(images):
    mask = torch.ones(1, *PLANE.shape)
    mask[:, :8] = 0
    found = run(*images[:2], TINY, fixed_mask=image(mask[0].numpy(), PLANE), moving_mask=image(mask[0].numpy(), PLANE))
    assert found.verdict is not None and found.warped_moving.shape == (1, *PLANE.shape)
    assert torch.equal(found.fixed_image.as_tensor(), images[0][0].as_tensor())


@pytest.mark.slow
def test_residuals_of_all_pairs_count(images):
    config = RegistrationConfig(stages=(Stage(4, 3), Stage(4, 3, spacing=16)))
    both = run(*images[:2], config)
    assert both.unexplained is not None and both.unexplained > 0


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_on_two_devices(images):
    one = run(*images[:2], TINY)
    two = run(*images[:2], TINY, device=None, devices=["cpu", "cpu"])
    torch.testing.assert_close(one.forward_mm, two.forward_mm, atol=0.05, rtol=0)


@pytest.mark.slow
def test_again_from_its_manifest(images, tmp_path):
    names = {}
    for role, values in zip(("fixed", "moving"), images[:2], strict=True):
        names[role] = [str(tmp_path / f"{role}{k}.nii.gz") for k in range(2)]
        for name, value in zip(names[role], values, strict=True):
            write_image(name, value, PLANE)
    found = run(names["fixed"], names["moving"], TINY, channel_weights=[1, 0.5])
    found.save(tmp_path / "out")
    arguments = RunManifest.load(tmp_path / "out").arguments()
    assert arguments["fixed"] == names["fixed"] and arguments["channel_weights"] == [1, 0.5]
    assert found.inputs == {role: names[role][0] for role in names}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]["channel_weights"] == [1, 0.5]
    again = run(**{**arguments, "preset": RegistrationConfig.of(arguments["preset"])})
    assert torch.equal(again.forward_mm, found.forward_mm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_weights": [1]}, r"channel_weights \[1\]: 2 needed"),
        ({"channel_weights": [1, 0]}, "channel_weights must be a positive number, got 0"),
        ({"channel_weights": [1, -1]}, "channel_weights must be a positive number, got -1"),
        ({"channel_weights": [1, float("nan")]}, "channel_weights must be a positive number"),
        ({"channel_weights": "12"}, "channel_weights must be a positive number"),
        ({"channel_weights": 2}, "channel_weights .*: 2 needed"),
        ({"predict": lambda *_: None}, "several images per side cannot be combined"),
    ],
)
def test_refusals(images, options, message):
    with pytest.raises(InputError, match=message):
        run(*images[:2], TINY, **options)


def test_an_initial_basis_is_refused(images):
    basis = run(images[0][0], images[1][0], TINY).basis
    with pytest.raises(InputError, match="initial_basis"):
        run(*images[:2], TINY, initial_basis=basis)


@pytest.mark.parametrize(
    ("fixed", "moving", "message"),
    [(2, 3, "2 fixed and 3 moving images: give as many of each"), (0, 1, "the list is empty"), (2, 0, "the list is empty")],
)
def test_unequal_numbers_of_images_are_refused(images, fixed, moving, message):
    with pytest.raises(InputError, match=message):
        run([images[0][0]] * fixed, [images[1][0]] * moving, TINY)


def test_images_of_other_dimensions_or_places_are_refused(images):
    flat, solid = images[0][0], image(anatomy(CUBE.points()), CUBE)
    with pytest.raises(InputError, match="both must be 2-D or both 3-D"):
        run([flat, solid], images[1], TINY)
    far = MetaTensor(flat.as_tensor(), affine=flat.affine + torch.tensor([[0, 0, 0, 900.0]] + [[0] * 4] * 3))
    with pytest.raises(InputError, match="does not overlap the first fixed image"):
        run([flat, far], images[1], TINY)


def test_the_losses_of_a_pair_see_that_pair():
    class Difference(torch.nn.Module):
        def forward(self, pred, target):
            return (pred - target).abs().mean()

    loss = ChannelLosses([Difference(), Difference()], [1, 3])
    pred, target = torch.tensor([1.0, 10.0]).reshape(1, 2, 1, 1), torch.tensor([2.0, 14.0]).reshape(1, 2, 1, 1)
    assert float(loss(pred, target)) == 1 / 4 * 1 + 3 / 4 * 4 and loss.in_channels == 2 and takes_mask(loss)
    assert checked_weights(None, 2) == (1, 1) and checked_weights([2], 1) == (2,)
