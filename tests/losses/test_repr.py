# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``repr`` of a loss: all that it was made with can be read, and the loss be made again from it."""

from __future__ import annotations

import inspect

import pytest
from torch import nn

from monai_locor import losses
from monai_locor.losses import LocalLearnedBasisCRLoss, MINDSSCLoss, RegistrationLoss

CHANGED = {
    "CorrelationRatioLoss": {"num_bins": 9, "kernel_type": "spline", "sigma_ratio": 0.7, "freeze_range": True},
    "LocalLearnedBasisCRLoss": {"kernel_sigma": 1.5, "stride": 2, "ridge": 0.5, "form": "normalized", "truncated": 2.5},
    "LocalNCCLoss": {"kernel_type": "gaussian", "kernel_size": 5, "kernel_sigma": 1.5, "truncated": 2.5, "stride": 2},
    "LocalParzenCRLoss": {"num_bins": 9, "kernel_sigma": 1.5, "truncated": 2.5, "stride": 2, "num_patches": 4},
    "MINDSSCLoss": {"radius": 1, "dilation": 3, "count_masked": True},
    "MutualInformationLoss": {"form": "normalized", "num_bins": 9, "quantile": 0.1, "eps": 0.5},
    "SRWCRLoss": {"num_bins": 9, "spacing": 6, "memory_budget_mb": 7.0},
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("options", [{}, None], ids=["defaults", "changed"])
def test_every_setting_is_shown(name, options):
    options = {"spatial_dims": 2, "reduction": "sum", "rescale": False, **(CHANGED[name] if options is None else {})}
    kind: type[nn.Module] = getattr(losses, name)
    loss = kind(**options)
    text = repr(loss)
    # the basis shows its own
    hidden = {"generator", *({"num_basis", "hidden_channels", "basis", "degree"} if name.startswith("LocalLearned") else ())}
    for parameter in list(inspect.signature(kind).parameters.values()):
        assert parameter.name in hidden or f"{parameter.name}={getattr(loss, parameter.name)!r}" in text, parameter.name
    for key, value in options.items():
        assert getattr(loss, key) in (value, (value, value))


def test_no_loss_is_forgotten():
    assert {*CHANGED, "RegistrationLoss"} == set(losses.__all__)


def test_the_parts_of_a_loss_show_theirs():
    assert "degree=2" in repr(LocalLearnedBasisCRLoss(basis="polynomial", degree=2))
    text = repr(RegistrationLoss(MINDSSCLoss(radius=1), bending_weight=7.0))
    assert "bending_weight=7.0" in text and "(similarity): MINDSSCLoss(spatial_dims=3, radius=1" in text
