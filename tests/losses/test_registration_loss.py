# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The training loss: both directions, masks for those that take them, bending energy in mm."""

from __future__ import annotations

import pytest
import torch
from monai.losses import BendingEnergyLoss, GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss

from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.registration_loss import RegistrationLoss


def prediction(channels: int = 2, batch: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    size = (batch, channels, 9, 10, 11)
    out = {name: torch.rand(size) for name in ("moving", "fixed", "warped_moving", "warped_fixed")}
    out |= {name: (torch.rand(batch, 1, *size[2:]) > 0.3).float() for name in ("weight", "inverse_weight")}
    out |= {name: torch.randn(batch, 3, *size[2:]) for name in ("ddf", "inverse_ddf", "velocity")}
    return out


def local_cr(**options) -> LocalLearnedBasisCRLoss:
    torch.manual_seed(1)
    return LocalLearnedBasisCRLoss(in_channels=2, rescale=False, **options).eval()


def test_is_what_its_parts_are():
    pred, one, other = prediction(), local_cr(), local_cr(num_basis=3)
    loss = RegistrationLoss(one, other, bending_weight=7.0)
    forward = one(pred["warped_moving"], pred["fixed"][:, :1], pred["weight"])
    inverse = other(pred["warped_fixed"], pred["moving"][:, :1], pred["inverse_weight"])
    bending = 7.0 * BendingEnergyLoss()(pred["ddf"])
    torch.testing.assert_close(loss(pred), (forward + inverse) / 2 + bending)
    torch.testing.assert_close(loss.last["similarity"], ((forward + inverse) / 2).detach())
    torch.testing.assert_close(loss.last["bending"], bending)
    torch.testing.assert_close(loss(pred, pred["fixed"]), loss(pred))
    assert not torch.equal(loss(pred, pred["fixed"].flip(2)), loss(pred))


def test_without_an_inverse_the_forward_direction_counts():
    pred, one = prediction(), local_cr()
    pred = {name: value for name, value in pred.items() if name not in ("warped_fixed", "inverse_ddf", "inverse_weight")}
    expected = one(pred["warped_moving"], pred["fixed"][:, :1], pred["weight"])
    torch.testing.assert_close(RegistrationLoss(one, bending_weight=0)(pred), expected)


@pytest.mark.parametrize("loss", [GlobalMutualInformationLoss(), LocalNormalizedCrossCorrelationLoss(), torch.nn.MSELoss()])
def test_losses_of_one_channel_without_mask(loss):
    pred = prediction()
    expected = (
        loss(pred["warped_moving"][:, :1], pred["fixed"][:, :1]) + loss(pred["warped_fixed"][:, :1], pred["moving"][:, :1])
    ) / 2
    torch.testing.assert_close(RegistrationLoss(loss, bending_weight=0)(pred), expected)


def test_masked_voxels_do_not_count():
    pred = prediction()
    loss = RegistrationLoss(local_cr(), local_cr(), bending_weight=0)
    changed = dict(pred)
    changed["fixed"] = torch.where(pred["weight"] > 0, pred["fixed"], 5.0)
    changed["moving"] = torch.where(pred["inverse_weight"] > 0, pred["moving"], -5.0)
    torch.testing.assert_close(loss(pred), loss(changed))


def test_bending_energy_is_in_mm():
    """Twice the voxel size, twice the displacement in mm: the same field in voxels, and the same term."""
    spacing, ddf = 2.0, prediction()["ddf"]
    second = BendingEnergyLoss()(ddf * spacing) / spacing**4  # second derivatives of mm by mm, squared
    zero = {**prediction(), "ddf": ddf}
    loss = RegistrationLoss(torch.nn.MSELoss(), bending_weight=60.0)
    loss(zero)
    torch.testing.assert_close(loss.last["bending"], 60.0 * spacing**2 * second)


def test_a_module_of_ones_own_for_smoothness():
    loss = RegistrationLoss(torch.nn.MSELoss(), bending_weight=3.0, regularization=lambda u: u.square().mean())
    pred = prediction()
    loss(pred)
    torch.testing.assert_close(loss.last["bending"], 3 * pred["ddf"].square().mean())


def test_saved_and_restored():
    first, second = (
        RegistrationLoss(LocalLearnedBasisCRLoss(in_channels=2), LocalLearnedBasisCRLoss(in_channels=2)) for _ in "ab"
    )
    pred = prediction()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.eval()(pred), second.eval()(pred))
    assert {name.split(".")[0] for name in first.state_dict()} == {"similarity", "inverse_similarity"}
    assert not first.similarity.training  # modes reach the windows' shift


def test_misuse_is_named():
    with pytest.raises(ValueError, match="inverse_similarity"):
        RegistrationLoss(local_cr())(prediction())
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="bending_weight"):
            RegistrationLoss(local_cr(), bending_weight=weight)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_smoothness_is_by_default_what_monai_computes():
    pred = {"warped_moving": torch.rand(2, 1, 6, 7, 8), "fixed": torch.rand(2, 1, 6, 7, 8)}
    ddf = torch.randn(2, 3, 6, 7, 8, requires_grad=True)
    losses = [RegistrationLoss(torch.nn.MSELoss(), regularization=r)(pred | {"ddf": ddf}) for r in (None, BendingEnergyLoss())]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, ddf)[0] for loss in losses))
