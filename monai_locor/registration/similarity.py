# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Construction of the similarity measure of a registration from its settings."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..losses.compare import channels_of
from ..networks import LearnedBasis
from .channels import ChannelLosses
from .config import RegistrationConfig
from .measures import (
    CUSTOM_BENDING_WEIGHT,
    CUSTOM_SIMILARITY,
    SIMILARITIES,
    Similarity,
    bending_weight_of,
    check_name,
    check_options,
    named_similarity,
)

__all__ = [
    "CUSTOM_BENDING_WEIGHT",
    "CUSTOM_SIMILARITY",
    "SIMILARITIES",
    "OwnSimilarity",
    "Similarity",
    "bending_weight_of",
    "check_name",
    "check_options",
    "chosen_similarity",
    "make_similarities",
    "make_similarity",
    "named_similarity",
]

OwnSimilarity = nn.Module | Callable[[int], nn.Module]


def chosen_similarity(
    config: RegistrationConfig, given: str | OwnSimilarity | None, options: Mapping[str, Any] | None = None
) -> tuple[RegistrationConfig, OwnSimilarity | None]:
    """Return the settings with the given measure, and the measure itself if it is a custom one.

    Args:
        config: settings.
        given: a name, a module or a function that returns one; None for the measure of the settings.
        options: options of a named measure, see ``similarity_options`` of the settings.

    Raises:
        InputError: for an unknown name or option, or an object of another type.
    """
    if given is None and config.similarity == CUSTOM_SIMILARITY:
        raise InputError("the settings used a custom similarity; pass it again as similarity.")
    if given is None or isinstance(given, str):
        name = config.similarity if given is None else given
        return (config if given is None and not options else config.with_similarity(name, options or None)), None
    if not callable(given):
        raise InputError(f"similarity must be a name, a module or a function that makes one, got {type(given).__name__}.")
    return config.with_similarity(CUSTOM_SIMILARITY, options), given


def make_similarities(
    config: RegistrationConfig,
    spatial_dims: int,
    generators: Sequence[torch.Generator],
    seed: int,
    own: OwnSimilarity | None = None,
    channel_weights: Sequence[float] = (1.0,),
) -> list[nn.Module]:
    """Construct the measure of the settings once per generator; torch's global random state is preserved.

    Args:
        config, spatial_dims, own: see :func:`make_similarity`.
        generators: a CPU random generator for each measure.
        seed: random seed of the initial weights.
        channel_weights: one weight per pair of channels; each pair has its own measure.

    Raises:
        InputError, ValueError: see :func:`make_similarity`.
    """
    if not isinstance(own, nn.Module | None):  # a function may use the global random state
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return [_of_channels(channel_weights, config, spatial_dims, g, own) for g in generators]
    weights = torch.Generator("cpu").manual_seed(seed)
    return [_of_channels(channel_weights, config, spatial_dims, g, own, weights) for g in generators]


def _of_channels(channel_weights: Sequence[float], *args: Any) -> nn.Module:
    losses = [make_similarity(*args) for _ in channel_weights]
    return losses[0] if len(losses) == 1 else ChannelLosses(losses, channel_weights)


def make_similarity(
    config: RegistrationConfig,
    spatial_dims: int,
    generator: torch.Generator | None = None,
    own: OwnSimilarity | None = None,
    weights: torch.Generator | None = None,
) -> nn.Module:
    """Construct the measure of the settings for one direction.

    Args:
        config: settings.
        spatial_dims: 2 or 3.
        generator: CPU random generator for its random numbers.
        own: overrides the measure of the settings: a module, which is copied, or a function of ``spatial_dims`` returning one.
        weights: CPU random generator for the initial weights of a learned basis; by default torch's global generator.

    Raises:
        InputError: if ``own`` does not return a module, or if the module cannot be used here.
        ValueError: if the settings require a custom similarity and none is given.
    """
    if own is not None:
        return _own_similarity(own, config, spatial_dims, generator)
    if config.similarity == CUSTOM_SIMILARITY:
        raise ValueError("the settings used a custom similarity, which is not given")
    known = SIMILARITIES[config.similarity]
    settings = {name: getattr(config, name) for name in known.settings}
    if "in_channels" in inspect.signature(known.loss).parameters:
        settings["in_channels"] = 1 if config.derivative == "none" else 2
    try:
        if settings.get("basis") == "learned":
            sizes = settings["in_channels"], settings["num_basis"], settings["hidden_channels"]
            settings["basis"] = LearnedBasis(*sizes, generator=weights)
        return named_similarity(config.similarity, spatial_dims, config.similarity_options, generator, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{config.similarity} for {spatial_dims}-D images: {' '.join(str(error).split())}") from error


def _own_similarity(
    own: OwnSimilarity, config: RegistrationConfig, spatial_dims: int, generator: torch.Generator | None
) -> nn.Module:
    loss = _copied(own) if isinstance(own, nn.Module) else own(spatial_dims)
    if not isinstance(loss, nn.Module):
        raise InputError(
            f"similarity must be a name, a module or a function of spatial_dims that makes a module, got {type(loss).__name__}."
        )
    for module in loss.modules():
        if getattr(module, "generator", "none") is None:
            setattr(module, "generator", generator)  # noqa: B010  # its random numbers depend on the seed
    channels = channels_of(loss)
    if channels not in (1, 2) or (channels == 2 and config.derivative == "none"):
        raise InputError(
            f"the similarity has in_channels {channels}; the channels are the intensity and, with derivative 'basis' or "
            "'both', its derivative magnitude."
        )
    return loss


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"the similarity cannot be copied ({error}); give a function that makes it.") from error
