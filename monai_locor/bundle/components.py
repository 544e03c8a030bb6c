# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Components of a training: the loss, and the network's relation to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..losses.registration_loss import RegistrationLoss
from ..registration import select_device
from ..registration.similarity import CUSTOM_BENDING_WEIGHT, SIMILARITIES, check_name, check_options, named_similarity
from .options import flag

__all__ = ["guide", "network_channels", "on_device", "parameter_groups", "registration_loss", "step_loss"]

IMAGE_CHANNELS = 2  # intensity and derivative magnitude


def on_device(module: nn.Module, device: Any) -> nn.Module:
    """A module, moved to a device.

    Raises:
        InputError: if the device cannot be used.
    """
    return module.to(select_device(device))


def network_channels(spatial_dims: int, guided: Any) -> int:
    """Input channels of a network: the two images, and for a guided one the gradient of the loss in two scalings."""
    return 2 + (2 * spatial_dims if flag(guided) else 0)


def guide(loss: nn.Module, guided: Any) -> nn.Module | None:
    """The loss whose gradient a network is given; None if the network is not guided."""
    return loss if flag(guided) else None


def parameter_groups(network: nn.Module, loss: nn.Module, basis_lr: float) -> list[dict[str, Any]]:
    """Parameters for an optimizer: those of the network, and those of the loss with a learning rate of their own."""
    return [{"params": list(network.parameters())}, {"params": list(loss.parameters()), "lr": basis_lr}]


def step_loss(output: Mapping[str, Any]) -> torch.Tensor:
    """The loss in the output of a training step."""
    return output["loss"].detach()


def registration_loss(
    similarity: str | nn.Module,
    options: Mapping[str, Any] | None = None,
    bending_weight: float | None = None,
    spatial_dims: int = 3,
    generator: torch.Generator | None = None,
) -> RegistrationLoss:
    """The loss of a training, by the name of its measure or from any loss.

    Args:
        similarity: one of :data:`monai_locor.registration.similarity.SIMILARITIES`; or a module, which is copied for the
            inverse direction.
        options: arguments of the class of a named measure.
        bending_weight: see :class:`monai_locor.losses.RegistrationLoss`; by default the weight that suits the measure in
            training.
        spatial_dims: 2 or 3.
        generator: CPU random generator of the measure.

    Raises:
        InputError: for an unknown measure or option; the message lists the valid ones.
    """
    if isinstance(similarity, nn.Module):
        if options:
            raise InputError(f"similarity_options are for a measure with a name, one of {', '.join(SIMILARITIES)}.")
        first, second = similarity, copy.deepcopy(similarity, {id(generator): generator})  # both use the seeded generator
        default = CUSTOM_BENDING_WEIGHT
    else:
        name = check_name(similarity)
        given = check_options(name, options or {}, without_settings=False)
        channels = {"in_channels": IMAGE_CHANNELS} if name == "locor" else {}
        first, second = (named_similarity(name, spatial_dims, given, generator, **channels) for _ in range(2))
        known = SIMILARITIES[name]
        default = known.bending_weight if known.training_bending_weight is None else known.training_bending_weight
    return RegistrationLoss(first, second, default if bending_weight is None else bending_weight)
