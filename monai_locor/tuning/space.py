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
from .parameters import DERIVATIVE_DEGREE, MEASURES, Parameter, digits

__all__ = ["SearchSpace", "search_space"]


def _common(name: str) -> Callable[[RegistrationConfig], float]:
    return lambda config: float(getattr(config, name))


def _option(name: str) -> Callable[[RegistrationConfig], float | None]:
    """As the settings have it, or else the measure's class."""

    def read(config: RegistrationConfig) -> float | None:
        default = inspect.signature(SIMILARITIES[config.similarity].loss).parameters[name].default
        value = config.similarity_options.get(name, default)
        return float(value) if isinstance(value, (int, float)) else None

    return read


# what a parameter is in settings as they are; None where it is not one number
READ: dict[str, Callable[[RegistrationConfig], float | None]] = {
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
    """Parameters, and the settings that they change.

    Args:
        base: settings, among them the measure.
        parameters: what is searched, by name.
    """

    base: RegistrationConfig
    parameters: dict[str, Parameter]

    def settings(self, values: Mapping[str, float]) -> RegistrationConfig:
        """The base settings with the values of some parameters, rounded to four digits.

        Raises:
            InputError: for an unknown parameter; the message lists the known ones.
        """
        self._check(values)
        rounded = {name: self.parameters[name].rounded(value) for name, value in values.items()}
        return _changed(self.base, rounded)

    def of_base(self) -> dict[str, float]:
        """The parameters of the base settings, those that lie between the bounds."""
        found = {name: READ.get(name, _option(name))(self.base) for name in self.parameters}
        known = {name: self.parameters[name].rounded(value) for name, value in found.items() if value is not None}
        return {name: value for name, value in known.items() if self.parameters[name].holds(value)}

    def unit(self, values: Mapping[str, float]) -> list[float]:
        """Values as coordinates between 0 and 1."""
        return [parameter.unit(values[name]) for name, parameter in self.parameters.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: parameter.to_dict() for name, parameter in self.parameters.items()}

    def _check(self, values: Mapping[str, float]) -> None:
        _check_names(self.base, values, self.parameters)


def search_space(
    base: RegistrationConfig,
    dims: int = 3,
    parameters: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> SearchSpace:
    """What is searched for some settings: the paper's parameters and bounds for their measure.

    Args:
        base: settings to start from, the measure among them.
        dims: of the images, 2 or 3; the paper's weight of the bending energy means another one in a plane.
        parameters: only these of them; the others stay as the settings have them.
        ranges: other bounds for some of them.

    Raises:
        InputError: for an unknown parameter (the message lists the known ones), bounds that are none, a measure of the
            user's own, and when nothing is left to be searched.
    """
    known = {p.name: p for p in _measure(base)}
    scale = 1 / (2 * dims**2)
    bending = known["bending_weight"]
    known["bending_weight"] = dataclasses.replace(bending, low=digits(bending.low * scale), high=digits(bending.high * scale))
    if base.basis == "polynomial" and base.derivative != "none" and "degree" in known:
        known["degree"] = dataclasses.replace(known["degree"], high=DERIVATIVE_DEGREE)
    if not base.affine:
        del known["learning_rate_affine"]
    _check_names(base, parameters or (), known)
    _check_names(base, ranges or {}, known)
    chosen = {name: p for name, p in known.items() if parameters is None or name in parameters}
    for name, bounds in (ranges or {}).items():
        if name not in chosen:
            raise InputError(f"range of {name}: it is not among the parameters that are searched, {', '.join(chosen)}")
        chosen[name] = chosen[name].within(*bounds)
    if not chosen:
        raise InputError(f"no parameter to search; choose from {', '.join(known)}")
    return SearchSpace(base, chosen)


def _measure(base: RegistrationConfig) -> tuple[Parameter, ...]:
    name = "locor, polynomial" if base.similarity == "locor" and base.basis == "polynomial" else base.similarity
    if name not in MEASURES:
        raise InputError(f"similarity {name!r} has no search space; those of {', '.join(MEASURES)} are known")
    return MEASURES[name]


def _check_names(base: RegistrationConfig, names: Sequence[str] | Mapping[str, Any], known: Mapping[str, Parameter]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"unknown parameters: {', '.join(unknown)}; {base.similarity} has {', '.join(known)}")


def _changed(base: RegistrationConfig, values: Mapping[str, float | int]) -> RegistrationConfig:
    """Settings with other values of the parameters."""
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
    """A stage with another learning rate."""
    rate = stage.learning_rate
    if rate is None and stage.spacing is not None and factor != 1:
        rate = DENSE_RATE  # its default; that of an affine stage is the settings' rate
    return stage if rate is None else dataclasses.replace(stage, learning_rate=digits(rate * factor))
