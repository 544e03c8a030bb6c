# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A network in training after it has been used, and what it keeps of the sizes of images."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.registration_loss import RegistrationLoss
from monai_locor.networks import RegistrationNetwork
from monai_locor.networks.forces import forces
from monai_locor.networks.registration_network import MAX_KEPT_SIZES


def model_and_loss(guided: bool = False) -> tuple[RegistrationNetwork, RegistrationLoss]:
    def similarity() -> LocalLearnedBasisCRLoss:
        return LocalLearnedBasisCRLoss(2, generator=torch.Generator().manual_seed(0))

    torch.manual_seed(0)
    loss = RegistrationLoss(similarity(), similarity())
    network = torch.nn.Conv2d(6 if guided else 2, 2, 3, padding=1)
    return RegistrationNetwork(network, 2, divisible=4, guide=loss if guided else None), loss


def gradients(guided: bool, before: bool) -> list[torch.Tensor]:
    model, loss = model_and_loss(guided)
    images = torch.rand(2, 1, 12, 14, generator=torch.Generator().manual_seed(1)), torch.linspace(0, 1, 336).view(2, 1, 12, 14)
    if before:
        with torch.inference_mode():
            model.eval()(*images)
        model.train()
        loss.train()
        for x in (loss.similarity, loss.inverse_similarity):
            x.generator.manual_seed(0)
    value = loss(model(*images))
    return list(torch.autograd.grad(value, [*model.parameters(), *loss.parameters()]))


@pytest.mark.parametrize("guided", [False, True])
def test_training_after_inference_mode(guided):
    expected, found = gradients(guided, False), gradients(guided, True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_images_made_in_inference_mode_can_be_trained_with():
    model, loss = model_and_loss()
    with torch.inference_mode():
        images = torch.rand(1, 1, 12, 14), torch.rand(1, 1, 12, 14)
    loss(model(*images)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_it_keeps_something_of_few_sizes():
    model, _ = model_and_loss()
    outputs = {}
    for n in range(10, 10 + 3 * MAX_KEPT_SIZES):
        image = torch.rand(1, 1, n, n, generator=torch.Generator().manual_seed(n))
        outputs[n] = image, model(image, image)["ddf"]
        assert len(model._exponentials) <= MAX_KEPT_SIZES
    for image, expected in outputs.values():  # those that were forgotten are made again
        assert torch.equal(model(image, image)["ddf"], expected)


def test_it_can_be_copied_after_use():
    model, _ = model_and_loss()
    image = torch.rand(1, 1, 12, 14)
    expected = model(image, image)["ddf"]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(image, image)["ddf"], expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_forces_are_smoothed_as_by_monai(dims):
    from monai.networks.layers import GaussianFilter

    field = torch.zeros(2, dims, *[9, 8, 7][:dims])
    pull = torch.randn(field.shape)
    found = forces(lambda u: (u * pull).sum(), field)
    unit = pull.square().mean(tuple(range(1, pull.ndim)), keepdim=True).sqrt()
    assert torch.equal(found[:, :dims], GaussianFilter(dims, 1.0)(-pull / unit))
