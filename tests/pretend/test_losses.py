# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The losses on the pretended device: values and gradients of the CPU, no waiting, no more launches than are written down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_locor.losses import (
    CorrelationRatioLoss,
    LocalLearnedBasisCRLoss,
    LocalNCCLoss,
    LocalParzenCRLoss,
    MINDSSCLoss,
    MutualInformationLoss,
    RegistrationLoss,
)
from monai_locor.registration.similarity import SIMILARITIES, named_similarity

from ..parameters import LOSSES, mostly_slow
from .agreement import at_most, elsewhere, use_portions_of_a_gpu

FORMS = {
    "locor, normalized": lambda: LocalLearnedBasisCRLoss(form="normalized"),
    "locor, polynomial": lambda: LocalLearnedBasisCRLoss(basis="polynomial"),
    "locor, a basis of one's own": lambda: LocalLearnedBasisCRLoss(basis=nn.Sequential(nn.Conv3d(1, 3, 1), nn.Sigmoid())),
    "locor, fixed basis": lambda: LocalLearnedBasisCRLoss().requires_grad_(False),
    "normalized mutual information": lambda: MutualInformationLoss(form="normalized", kernel_type="spline"),
    "mutual information, one range": lambda: MutualInformationLoss(freeze_range=True, count_masked=True),
    "correlation ratio, splines": lambda: CorrelationRatioLoss(kernel_type="spline"),
    "local_parzen_cr, patches": lambda: LocalParzenCRLoss(num_patches=20, patch_size=5),
    "local_ncc, gaussian": lambda: LocalNCCLoss(kernel_type="gaussian", kernel_sigma=1.0, stride=2),
    "mind_ssc, small": lambda: MINDSSCLoss(radius=1, dilation=1, count_masked=True),
    **{f"{name}, of a registration": lambda name=name: named_similarity(name, 3) for name in SIMILARITIES},
}
# of forward and backward at 16^3 with the defaults, without and with a mask; a change may lower them
LAUNCHES = {
    "LocalLearnedBasisCRLoss": (296, 299),
    "MutualInformationLoss": (284, 287),
    "CorrelationRatioLoss": (286, 289),
    "LocalParzenCRLoss": (310, 313),
    "SRWCRLoss": (372, 375),
    "LocalNCCLoss": (278, 281),
    "MINDSSCLoss": (2012, 2015),
}


def made(device: str, masked: bool) -> list[torch.Tensor]:
    """Prediction, target and perhaps a mask, always the same ones."""
    generator = torch.Generator().manual_seed(3)
    moving = nn.functional.avg_pool3d(torch.rand(2, 1, 18, 18, 18, generator=generator), 3, 1)
    images = [moving, (7 * moving).cos(), (moving > 0.45).float()]
    return [image.to(device) for image in images[: 3 if masked else 2]]


def called(loss: nn.Module, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """Value and gradients."""
    pred, target = (image.clone().requires_grad_() for image in images[:2])
    torch.manual_seed(5)
    value = loss(pred, target, *images[2:])
    learned = [p for p in loss.parameters() if p.requires_grad]
    return [value, *torch.autograd.grad(value, [pred, target, *learned])]


@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", mostly_slow([*LOSSES, *FORMS], len(LOSSES)))
def test_values_and_gradients_are_the_cpus(cuda, monkeypatch, name, masked):
    use_portions_of_a_gpu(monkeypatch)
    torch.manual_seed(0)
    loss = (LOSSES | FORMS)[name]()
    here = called(loss, made("cpu", masked))
    there = called(loss.to("cuda"), made("cuda", masked))
    assert not elsewhere(there, "cuda")
    # without a mask, the CPU looks whether it has to leave out a voxel; a GPU is not asked, and divides by a mass of about one
    share = 1e-5 if masked else 2e-3
    for a, b in zip(there, here, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=share * float(b.detach().abs().max()))


@pytest.mark.parametrize("masked", mostly_slow([True, False]), ids=["masked", "whole"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_call_does_not_wait(cuda, name, masked):
    loss, images = LOSSES[name]().to("cuda"), made("cuda", masked)
    called(loss, images)  # what is made once for a shape may be waited for
    record = cuda.forget()
    called(loss, images)
    assert not record.waits and not record.draws
    kind = "masked" if masked else "whole"
    at_most({kind: sum(record.launches.values())}, dict(zip(("whole", "masked"), LAUNCHES[name])), f"launches of {name}")


def test_the_loss_of_a_training_does_not_wait(cuda):
    loss = RegistrationLoss(*(LocalLearnedBasisCRLoss(in_channels=2, rescale=False) for _ in range(2))).to("cuda")
    names = ("moving", "fixed", "warped_moving", "warped_fixed")
    images = {name: torch.rand(1, 2, 12, 12, 12, device="cuda") for name in names}
    fields = {name: torch.rand(1, 3, 12, 12, 12, device="cuda").requires_grad_() for name in ("ddf", "inverse_ddf")}
    for _ in range(2):
        record = cuda.forget()
        loss(images | fields).backward()
    assert not record.waits
