# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The measures that can drive a registration, by name, and how one is made from the settings."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from monai_locor.errors import InputError
from monai_locor.losses import (
    CorrelationRatioLoss,
    LocalLearnedBasisCRLoss,
    LocalNCCLoss,
    LocalParzenCRLoss,
    MINDSSCLoss,
    MutualInformationLoss,
    SRWCRLoss,
)
from monai_locor.losses.compare import channels_of
from monai_locor.networks import LearnedBasis

if TYPE_CHECKING:
    from .config import RegistrationConfig

__all__ = [
    "CUSTOM",
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

CUSTOM = "custom"  # what the settings of a registration by a module of the user's say
CUSTOM_BENDING_WEIGHT = 30.0
NORMALIZED_BENDING_WEIGHT = 20.0  # of the default measure in its normalised form
ENGINE = ("spatial_dims", "in_channels", "reduction", "generator")  # no options
SETTINGS = (  # of the default measure, which have names of their own in the settings
    *("num_basis", "hidden_channels", "basis", "kernel_sigma", "truncated", "stride"),
    *("ridge", "eps", "form", "min_mass"),
)

OwnSimilarity = nn.Module | Callable[[int], nn.Module]


@dataclass(frozen=True)
class Similarity:
    """A measure of :mod:`monai_locor.losses` as a registration uses it.

    Attributes:
        loss: its class.
        bending_weight: that goes with it, see :class:`monai_locor.registration.RegistrationConfig`.
        training_bending_weight: that goes with it in the training of a network, None where that is the same.
        options: where the defaults are not those of the class; the images of a registration are in [0, 1] already.
        fixed: arguments that make it this measure.
        settings: arguments that have names of their own in the settings.
    """

    loss: type[nn.Module]
    bending_weight: float
    options: Mapping[str, Any] = field(default_factory=lambda: {"rescale": False})
    fixed: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    training_bending_weight: float | None = None

    def option_names(self, without_settings: bool = True) -> list[str]:
        """What ``similarity_options`` may hold; where there are no settings beside it, what has a setting, too."""
        taken = {*ENGINE, *self.fixed, *(self.settings if without_settings else ())}
        return [name for name in inspect.signature(self.loss).parameters if name not in taken]


RANGE = {"rescale": False, "freeze_range": True}  # if it is asked to rescale, then in the same way throughout a stage
SMALL_WINDOWS = {"rescale": False, "kernel_type": "gaussian", "kernel_sigma": 1.0, "stride": 2}
SIMILARITIES: dict[str, Similarity] = {
    # networks learn across people, too: there the weight that suits one pair is too stiff
    "locor": Similarity(LocalLearnedBasisCRLoss, 120.0, settings=SETTINGS, training_bending_weight=60.0),
    "mutual_information": Similarity(MutualInformationLoss, 60.0, RANGE, {"form": "mutual_information"}),
    "normalized_mutual_information": Similarity(MutualInformationLoss, 30.0, RANGE, {"form": "normalized"}),
    "correlation_ratio": Similarity(CorrelationRatioLoss, 40.0, RANGE),
    "local_parzen_cr": Similarity(LocalParzenCRLoss, 25.0, RANGE),
    "srwcr": Similarity(SRWCRLoss, 30.0, RANGE),
    "local_ncc": Similarity(LocalNCCLoss, 50.0, SMALL_WINDOWS),
    "mind_ssc": Similarity(MINDSSCLoss, 7.0),
}


def check_name(name: Any) -> str:
    """The name of a measure.

    Raises:
        InputError: for another one; the message lists them.
    """
    if not isinstance(name, str) or name not in SIMILARITIES:
        raise InputError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {name!r}.")
    return name


def check_options(name: str, options: Any, without_settings: bool = True) -> dict[str, Any]:
    """Options of a measure as plain values.

    Raises:
        InputError: for unknown ones, values that are not plain, and values that the measure refuses.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"similarity_options must be a mapping of names to values, got {options!r}.")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(options)))
    except (TypeError, ValueError) as error:
        raise InputError(f"similarity_options must be plain values, got {dict(options)!r} ({error}).") from error
    known = [] if name == CUSTOM else SIMILARITIES[name].option_names(without_settings)
    unknown = [key for key in plain if key not in known]
    if unknown:
        raise InputError(f"unknown similarity_options: {', '.join(unknown)}; {name} has {', '.join(known) or 'none'}.")
    if plain:
        _try(name, plain)
    return plain


def _try(name: str, options: Mapping[str, Any]) -> None:
    """Make the measure once; a value for each axis may be for 3-D images or for 2-D ones."""
    for dims in (3, 2):
        try:
            named_similarity(name, dims, options)
            return
        except (TypeError, ValueError) as error:
            problem = error
    raise InputError(f"similarity_options of {name}: {' '.join(str(problem).split())}") from problem


def chosen_similarity(
    config: RegistrationConfig, given: str | OwnSimilarity | None, options: Mapping[str, Any] | None = None
) -> tuple[RegistrationConfig, OwnSimilarity | None]:
    """The settings with the measure that was asked for beside them, and the caller's own, if it is that.

    Args:
        config: settings.
        given: a name, a module or a function that makes one; None for that of the settings.
        options: of a measure with a name, see ``similarity_options`` of the settings.

    Raises:
        InputError: for an unknown name or option, or something else.
    """
    if given is None and config.similarity == CUSTOM:
        raise InputError("the settings are of a registration by a module of one's own: give it again as similarity.")
    if given is None or isinstance(given, str):
        name = config.similarity if given is None else given
        return (config if given is None and not options else config.with_similarity(name, options or None)), None
    if not callable(given):
        raise InputError(f"similarity must be a name, a module or a function that makes one, got {type(given).__name__}.")
    return config.with_similarity(CUSTOM, options), given


def bending_weight_of(config: RegistrationConfig) -> float:
    """The weight that goes with the measure of some settings."""
    if config.similarity == CUSTOM:
        return CUSTOM_BENDING_WEIGHT
    if config.similarity == "locor" and config.form == "normalized":
        return NORMALIZED_BENDING_WEIGHT
    return SIMILARITIES[config.similarity].bending_weight


def named_similarity(
    name: str,
    spatial_dims: int,
    options: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> nn.Module:
    """A measure with the defaults of a registration, for images in about [0, 1].

    Args:
        name: one of :data:`SIMILARITIES`.
        spatial_dims: 2 or 3.
        options: that its class is given instead.
        generator: CPU random generator of what it draws.
        settings: further arguments of its class.

    Raises:
        InputError: for an unknown name.
        TypeError, ValueError: for options that the class refuses.
    """
    known = SIMILARITIES[check_name(name)]
    if "generator" in inspect.signature(known.loss).parameters:
        settings["generator"] = generator
    return known.loss(**{**known.options, **settings, **(options or {}), **known.fixed, "spatial_dims": spatial_dims})


def make_similarities(
    config: RegistrationConfig,
    spatial_dims: int,
    generators: Sequence[torch.Generator],
    seed: int,
    own: OwnSimilarity | None = None,
) -> list[nn.Module]:
    """The measure that some settings ask for, once for each generator; torch's global random state is left as it was.

    Args:
        config, spatial_dims, own: see :func:`make_similarity`.
        generators: CPU random generators of what each measure draws.
        seed: of what they begin with.

    Raises:
        InputError, ValueError: see :func:`make_similarity`.
    """
    if not isinstance(own, nn.Module | None):  # what a function draws comes from the global state: it is lent to it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return [make_similarity(config, spatial_dims, g, own) for g in generators]
    weights = torch.Generator("cpu").manual_seed(seed)
    return [make_similarity(config, spatial_dims, g, own, weights) for g in generators]


def make_similarity(
    config: RegistrationConfig,
    spatial_dims: int,
    generator: torch.Generator | None = None,
    own: OwnSimilarity | None = None,
    weights: torch.Generator | None = None,
) -> nn.Module:
    """The measure that some settings ask for, of one direction.

    Args:
        config: settings.
        spatial_dims: 2 or 3.
        generator: CPU random generator of what it draws.
        own: instead of the settings' measure: a module, which is copied, or a function that makes one for so many axes.
        weights: CPU random generator of the first weights of a learned basis; by default torch's global one.

    Raises:
        InputError: when ``own`` makes no module or one that cannot be used here.
        ValueError: when the settings are of a registration by the caller's own, and there is none.
    """
    if own is not None:
        return _own_similarity(own, config, spatial_dims, generator)
    if config.similarity == CUSTOM:
        raise ValueError("the settings are of a registration by a module of the caller's own, which is not there")
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
            setattr(module, "generator", generator)  # noqa: B010  # what it draws follows the seed, too
    channels = channels_of(loss)
    if channels not in (1, 2) or (channels == 2 and config.derivative == "none"):
        raise InputError(
            f"the similarity wants in_channels {channels}: there is the intensity and, with derivative 'basis' or 'both', "
            "its derivative magnitude."
        )
    return loss


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"the similarity cannot be copied ({error}); give a function that makes it.") from error
