# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The named similarity measures of a registration and their options; torch is imported only to construct a measure."""

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
    "CUSTOM_BENDING_WEIGHT",
    "CUSTOM_SIMILARITY",
    "SIMILARITIES",
    "Similarity",
    "bending_weight_of",
    "check_name",
    "check_options",
    "named_similarity",
]

CUSTOM_SIMILARITY = "custom"  # name of custom modules in the settings
CUSTOM_BENDING_WEIGHT = 30.0
FORM_BENDING_WEIGHTS = {"normalized": 20.0, "robust": 20.0}  # of forms of the default measure other than "log"
LOCOR_SETTINGS = (  # arguments of the default measure with a setting of their own
    *("num_basis", "hidden_channels", "basis", "kernel_sigma", "truncated", "stride"),
    *("ridge", "eps", "form", "min_mass"),
)


@dataclass(frozen=True)
class Similarity:
    """A measure of :mod:`monai_locor.losses` as used by a registration.

    Attributes:
        name: name of its class.
        bending_weight: default weight of the bending energy, see :class:`monai_locor.registration.RegistrationConfig`.
        names: arguments allowed in ``similarity_options``.
        options: defaults that differ from those of the class; the images of a registration are already in [0, 1].
        fixed: arguments that select this measure.
        settings: arguments with a setting of their own.
        training_bending_weight: default weight of the bending energy in training; None if it is the same.
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
        """The class of the measure. Imports torch."""
        found: type[nn.Module] = getattr(import_module("monai_locor.losses"), self.name)
        return found

    def option_names(self, without_settings: bool = True) -> list[str]:
        """Return the names allowed in ``similarity_options``; unless ``without_settings``, also those with a setting."""
        return [*self.names, *(() if without_settings else self.settings)]


FROZEN_RANGE = {"rescale": False, "freeze_range": True}  # if rescaling is enabled, the range is fixed during a stage
SMALL_WINDOWS = {"rescale": False, "kernel_type": "gaussian", "kernel_sigma": 1.0, "stride": 2}
HISTOGRAM_OPTIONS = ("num_bins", "kernel_type", "sigma_ratio")
RESCALING_OPTIONS = ("rescale", "quantile", "freeze_range")
WINDOW_OPTIONS = ("kernel_sigma", "truncated", "stride")
GLOBAL_OPTIONS = (*HISTOGRAM_OPTIONS, *RESCALING_OPTIONS, "count_masked", "eps")
PATCH_OPTIONS = (
    *HISTOGRAM_OPTIONS,
    *WINDOW_OPTIONS,
    "num_patches",
    "patch_size",
    *RESCALING_OPTIONS,
    "eps",
    "min_mass",
    "memory_budget_mb",
)
NCC_OPTIONS = ("kernel_type", "kernel_size", *WINDOW_OPTIONS, "rescale", "eps", "min_mass", "memory_budget_mb")
SIMILARITIES: dict[str, Similarity] = {
    # networks are also trained on inter-subject pairs, for which the weight of a registration is too large
    "locor": Similarity(
        *("LocalLearnedBasisCRLoss", 120.0, ("degree", "rescale", "memory_budget_mb", "fused")),
        settings=LOCOR_SETTINGS,
        training_bending_weight=60.0,
    ),
    "mutual_information": Similarity(
        "MutualInformationLoss", 60.0, GLOBAL_OPTIONS, FROZEN_RANGE, {"form": "mutual_information"}
    ),
    "normalized_mutual_information": Similarity(
        "MutualInformationLoss", 30.0, GLOBAL_OPTIONS, FROZEN_RANGE, {"form": "normalized"}
    ),
    "correlation_ratio": Similarity(
        "CorrelationRatioLoss", 40.0, (*HISTOGRAM_OPTIONS, *RESCALING_OPTIONS, "eps"), FROZEN_RANGE
    ),
    "local_parzen_cr": Similarity("LocalParzenCRLoss", 25.0, PATCH_OPTIONS, FROZEN_RANGE),
    "srwcr": Similarity(
        "SRWCRLoss", 30.0, ("num_bins", "spacing", *RESCALING_OPTIONS, "eps", "memory_budget_mb"), FROZEN_RANGE
    ),
    "local_ncc": Similarity("LocalNCCLoss", 50.0, NCC_OPTIONS, SMALL_WINDOWS),
    "mind_ssc": Similarity("MINDSSCLoss", 7.0, ("radius", "dilation", "rescale", "count_masked")),
}


def check_name(name: Any) -> str:
    """Check and return the name of a measure.

    Raises:
        InputError: for an unknown name; the message lists the valid names.
    """
    if not isinstance(name, str) or name not in SIMILARITIES:
        raise InputError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {name!r}.")
    return name


def check_options(name: str, options: Any, without_settings: bool = True) -> dict[str, Any]:
    """Check the options of a measure and return them as plain values.

    Raises:
        InputError: for unknown options, values that are not plain, and values rejected by the measure.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"similarity_options must be a mapping of names to values, got {options!r}.")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(options)))
    except (TypeError, ValueError) as error:
        raise InputError(f"similarity_options must be plain values, got {dict(options)!r} ({error}).") from error
    known = [] if name == CUSTOM_SIMILARITY else SIMILARITIES[name].option_names(without_settings)
    unknown = [key for key in plain if key not in known]
    if unknown:
        raise InputError(f"unknown similarity_options: {', '.join(unknown)}; {name} has {', '.join(known) or 'none'}.")
    if plain:
        _try(name, plain)
    return plain


def _try(name: str, options: Mapping[str, Any]) -> None:
    """Construct the measure to check its options; values per axis may be for 3-D or 2-D images."""
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
    """Construct a measure with the defaults of a registration, for images in about [0, 1].

    Args:
        name: one of :data:`SIMILARITIES`.
        spatial_dims: 2 or 3.
        options: arguments of its class that override the defaults.
        generator: CPU random generator for its random numbers.
        settings: further arguments of its class.

    Raises:
        InputError: for an unknown name.
        TypeError, ValueError: for options rejected by the class.
    """
    known = SIMILARITIES[check_name(name)]
    if "generator" in inspect.signature(known.loss).parameters:
        settings["generator"] = generator
    return known.loss(**{**known.options, **settings, **(options or {}), **known.fixed, "spatial_dims": spatial_dims})


def bending_weight_of(similarity: str, form: str) -> float:
    """Return the default weight of the bending energy for a measure; ``form`` applies to the default measure."""
    if similarity == CUSTOM_SIMILARITY:
        return CUSTOM_BENDING_WEIGHT
    known = SIMILARITIES[similarity].bending_weight
    return FORM_BENDING_WEIGHTS.get(form, known) if similarity == "locor" else known
