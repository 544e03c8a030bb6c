# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A search space: base settings, and the parameters of their measure that change them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..registration import RegistrationConfig
from ..registration.measures import SIMILARITIES
from ..registration.schedule import DENSE_RATE, Stage
from .parameters import MAX_DERIVATIVE_DEGREE, MEASURES, Parameter, digits

__all__ = ["SearchSpace", "search_space"]


def _common(name: str) -> Callable[[RegistrationConfig], float]:
    return lambda config: float(getattr(config, name))


def _option(name: str) -> Callable[[RegistrationConfig], float | None]:
    """Read an option from the settings; the default of the measure's class otherwise."""

    def read(config: RegistrationConfig) -> float | None:
        default = inspect.signature(SIMILARITIES[config.similarity].loss).parameters[name].default
        value = config.similarity_options.get(name, default)
        return float(value) if isinstance(value, (int, float)) else None

    return read


# Current value of each parameter in given settings; None if it is not a single number.
SETTING_READERS: dict[str, Callable[[RegistrationConfig], float | None]] = {
    "bending_weight": lambda config: config.effective_bending_weight,
    "learning_rate_affine": _common("learning_rate_affine"),
    "learning_rate_dense": lambda config: DENSE_RATE,
    "learning_rate_basis": _common("learning_rate_basis"),
    "kernel_sigma": lambda config: config.kernel_sigma if config.similarity == "locor" else _option("kernel_sigma")(config),
    "num_basis": _common("num_basis"),
    "quantile": lambda config: config.similarity_options.get("quantile", config.quantile),
}


@dataclass(frozen=True)
class SearchSpace:
    """Parameters to search, and the base settings that they modify.

    Args:
        base: base settings, including the measure.
        parameters: parameters to search, by name.
    """

    base: RegistrationConfig
    parameters: dict[str, Parameter]

    def settings(self, values: Mapping[str, float]) -> RegistrationConfig:
        """The base settings with given parameter values, rounded to four significant digits.

        Raises:
            InputError: for an unknown parameter; the message lists the known ones.
        """
        self._check(values)
        rounded = {name: self.parameters[name].rounded(value) for name, value in values.items()}
        return _changed(self.base, rounded)

    def of_base(self) -> dict[str, float]:
        """Parameter values of the base settings; those out of bounds are left out."""
        found = {name: SETTING_READERS.get(name, _option(name))(self.base) for name in self.parameters}
        known = {name: self.parameters[name].rounded(value) for name, value in found.items() if value is not None}
        return {name: value for name, value in known.items() if self.parameters[name].holds(value)}

    def unit(self, values: Mapping[str, float]) -> list[float]:
        """Parameter values mapped to the unit cube."""
        return [parameter.unit(values[name]) for name, parameter in self.parameters.items()]

    def to_dict(self) -> dict[str, Any]:
        """The bounds as JSON-serializable values."""
        return {name: parameter.to_dict() for name, parameter in self.parameters.items()}

    def _check(self, values: Mapping[str, float]) -> None:
        _check_names(self.base, values, self.parameters)


def search_space(
    base: RegistrationConfig,
    dims: int = 3,
    parameters: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> SearchSpace:
    """Search space for given settings: the paper's parameters and bounds for their measure.

    Args:
        base: base settings, including the measure.
        dims: number of image dimensions, 2 or 3; the paper's bending weight is scaled by it.
        parameters: names of the parameters to search; by default all. The others keep their base values.
        ranges: bounds that replace those of the paper.

    Raises:
        InputError: for an unknown parameter (the message lists the known ones), invalid bounds, a user-defined measure, and
            an empty search space.
    """
    known = {p.name: p for p in _measure(base)}
    scale = 1 / (2 * dims**2)
    bending = known["bending_weight"]
    known["bending_weight"] = dataclasses.replace(bending, low=digits(bending.low * scale), high=digits(bending.high * scale))
    if base.basis == "polynomial" and base.derivative != "none" and "degree" in known:
        known["degree"] = dataclasses.replace(known["degree"], high=MAX_DERIVATIVE_DEGREE)
    if not base.affine:
        del known["learning_rate_affine"]
    _check_names(base, parameters or (), known)
    _check_names(base, ranges or {}, known)
    chosen = {name: p for name, p in known.items() if parameters is None or name in parameters}
    for name, bounds in (ranges or {}).items():
        if name not in chosen:
            raise InputError(f"range of {name}: not one of the searched parameters, {', '.join(chosen)}")
        chosen[name] = chosen[name].within(*bounds)
    if not chosen:
        raise InputError(f"no parameter to search; choose from {', '.join(known)}")
    return SearchSpace(base, chosen)


def _measure(base: RegistrationConfig) -> tuple[Parameter, ...]:
    name = "locor, polynomial" if base.similarity == "locor" and base.basis == "polynomial" else base.similarity
    if name not in MEASURES:
        raise InputError(f"similarity {name!r} has no search space; use one of {', '.join(MEASURES)}")
    return MEASURES[name]


def _check_names(base: RegistrationConfig, names: Sequence[str] | Mapping[str, Any], known: Mapping[str, Parameter]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"unknown parameters: {', '.join(unknown)}; {base.similarity} has {', '.join(known)}")


def _changed(base: RegistrationConfig, values: Mapping[str, float | int]) -> RegistrationConfig:
    """The settings with other parameter values."""
    known = SIMILARITIES[base.similarity].option_names()
    options: dict[str, Any] = {name: value for name, value in values.items() if name in known}
    plain: dict[str, Any] = {n: v for n, v in values.items() if n not in known and n != "learning_rate_dense"}
    if "quantile" in options:
        options["rescale"] = True
    if options:
        plain["similarity_options"] = {**base.similarity_options, **options}
    affine = values.get("learning_rate_affine", base.learning_rate_affine) / base.learning_rate_affine
    dense = values.get("learning_rate_dense", DENSE_RATE) / DENSE_RATE
    plain["stages"] = tuple(_scaled(s, affine if s.spacing is None else dense) for s in base.stages)
    return dataclasses.replace(base, **plain)


def _scaled(stage: Stage, factor: float) -> Stage:
    """The stage with its learning rate scaled."""
    rate = stage.learning_rate
    if rate is None and stage.spacing is not None and factor != 1:
        rate = DENSE_RATE  # the default of deformable stages; affine stages take the rate from the settings
    return stage if rate is None else dataclasses.replace(stage, learning_rate=digits(rate * factor))
