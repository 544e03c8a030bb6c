# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a command line says, as values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..losses.registration_loss import RegistrationLoss
from ..registration.similarity import CUSTOM_BENDING_WEIGHT, SIMILARITIES, check_name, check_options, named_similarity

__all__ = ["registration_loss", "within"]

CHANNELS = 2  # intensity and derivative magnitude


def within(folder: Any, name: str) -> str | None:
    """Path of a file or folder in a folder; None where that is None, or a command line's word for it."""
    return None if str(folder).lower() in ("none", "null", "false", "") else str(Path(str(folder)).expanduser() / name)


def registration_loss(
    similarity: str | nn.Module,
    options: Mapping[str, Any] | None = None,
    bending_weight: float | None = None,
    spatial_dims: int = 3,
    generator: torch.Generator | None = None,
) -> RegistrationLoss:
    """The loss of a training, by the name of its measure or of any loss.

    Args:
        similarity: one of :data:`monai_locor.registration.similarity.SIMILARITIES`; or a module, of which the inverse
            direction gets a copy.
        options: arguments of the class of a measure with a name.
        bending_weight: see :class:`monai_locor.losses.RegistrationLoss`; by default what goes with the measure in
            training.
        spatial_dims: 2 or 3.
        generator: CPU random generator of what the measure draws.

    Raises:
        InputError: for an unknown measure or option; the message lists the valid ones.
    """
    if isinstance(similarity, nn.Module):
        if options:
            raise InputError(f"similarity_options are for a measure with a name, one of {', '.join(SIMILARITIES)}.")
        first, second = similarity, copy.deepcopy(similarity, {id(generator): generator})  # both draw from what is seeded
        default = CUSTOM_BENDING_WEIGHT
    else:
        name = check_name(similarity)
        given = check_options(name, options or {}, without_settings=False)
        channels = {"in_channels": CHANNELS} if name == "locor" else {}
        first, second = (named_similarity(name, spatial_dims, given, generator, **channels) for _ in range(2))
        known = SIMILARITIES[name]
        default = known.bending_weight if known.training_bending_weight is None else known.training_bending_weight
    return RegistrationLoss(first, second, default if bending_weight is None else bending_weight)
