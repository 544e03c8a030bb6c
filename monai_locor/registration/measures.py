# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The measures that can drive a registration, by name: what the settings must know of them. Without torch."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:  # torch takes seconds to import
    import torch
    from torch import nn

__all__ = [
    "CUSTOM",
    "CUSTOM_BENDING_WEIGHT",
    "SIMILARITIES",
    "Similarity",
    "bending_weight_of",
    "check_name",
    "check_options",
    "named_similarity",
]

CUSTOM = "custom"  # what the settings of a registration by a module of the user's say
CUSTOM_BENDING_WEIGHT = 30.0
NORMALIZED_BENDING_WEIGHT = 20.0  # of the default measure in its normalized form
SETTINGS = (  # of the default measure, which have names of their own in the settings
    *("num_basis", "hidden_channels", "basis", "kernel_sigma", "truncated", "stride"),
    *("ridge", "eps", "form", "min_mass"),
)


@dataclass(frozen=True)
class Similarity:
    """A measure of :mod:`monai_locor.losses` as a registration uses it.

    Attributes:
        name: of its class.
        bending_weight: that goes with it, see :class:`monai_locor.registration.RegistrationConfig`.
        names: of the arguments that ``similarity_options`` may hold.
        options: where the defaults are not those of the class; the images of a registration are in [0, 1] already.
        fixed: arguments that make it this measure.
        settings: arguments that have names of their own in the settings.
        training_bending_weight: that goes with it in the training of a network, None where that is the same.
    """

    name: str
    bending_weight: float
    names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=lambda: {"rescale": False})
    fixed: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    training_bending_weight: float | None = None

    @property
    def loss(self) -> type[nn.Module]:
        """Its class. This imports torch."""
        found: type[nn.Module] = getattr(import_module("monai_locor.losses"), self.name)
        return found

    def option_names(self, without_settings: bool = True) -> list[str]:
        """What ``similarity_options`` may hold; where there are no settings beside it, also what has a setting."""
        return [*self.names, *(() if without_settings else self.settings)]


RANGE = {"rescale": False, "freeze_range": True}  # if it is asked to rescale, then in the same way throughout a stage
SMALL_WINDOWS = {"rescale": False, "kernel_type": "gaussian", "kernel_sigma": 1.0, "stride": 2}
HISTOGRAM = ("num_bins", "kernel_type", "sigma_ratio")
RESCALING = ("rescale", "quantile", "freeze_range")
WINDOWS = ("kernel_sigma", "truncated", "stride")
GLOBAL = (*HISTOGRAM, *RESCALING, "count_masked", "eps")
PATCHES = (*HISTOGRAM, *WINDOWS, "num_patches", "patch_size", *RESCALING, "eps", "min_mass", "memory_budget_mb")
NCC = ("kernel_type", "kernel_size", *WINDOWS, "rescale", "eps", "min_mass", "memory_budget_mb")
SIMILARITIES: dict[str, Similarity] = {
    # networks learn across people, too: there the weight that suits one pair is too stiff
    "locor": Similarity(
        *("LocalLearnedBasisCRLoss", 120.0, ("degree", "rescale", "memory_budget_mb")),
        settings=SETTINGS,
        training_bending_weight=60.0,
    ),
    "mutual_information": Similarity("MutualInformationLoss", 60.0, GLOBAL, RANGE, {"form": "mutual_information"}),
    "normalized_mutual_information": Similarity("MutualInformationLoss", 30.0, GLOBAL, RANGE, {"form": "normalized"}),
    "correlation_ratio": Similarity("CorrelationRatioLoss", 40.0, (*HISTOGRAM, *RESCALING, "eps"), RANGE),
    "local_parzen_cr": Similarity("LocalParzenCRLoss", 25.0, PATCHES, RANGE),
    "srwcr": Similarity("SRWCRLoss", 30.0, ("num_bins", "spacing", *RESCALING, "eps", "memory_budget_mb"), RANGE),
    "local_ncc": Similarity("LocalNCCLoss", 50.0, NCC, SMALL_WINDOWS),
    "mind_ssc": Similarity("MINDSSCLoss", 7.0, ("radius", "dilation", "rescale", "count_masked")),
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


def bending_weight_of(similarity: str, form: str) -> float:
    """The default weight of the bending energy for a measure; ``form`` is that of the default measure."""
    if similarity == CUSTOM:
        return CUSTOM_BENDING_WEIGHT
    if similarity == "locor" and form == "normalized":
        return NORMALIZED_BENDING_WEIGHT
    return SIMILARITIES[similarity].bending_weight
