# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Search space of each measure: the paper's parameters and bounds, and their counterparts in our settings.

- ``bending_weight``: the paper's reg, log [0.1, 1e4], divided by ``2 n^2`` for n-dimensional images. The paper scales the
  bending energy by ``1 / n^2``, and here only one of the two averaged directions has a bending term.
- ``learning_rate_affine``: lr_affine, log [1e-3, 1e-1]. Affine stages with a rate of their own keep their ratio to it.
- ``learning_rate_dense``: lr_dense, log [1e-3, 1e-1]. The rates of all deformable stages are multiplied by
  ``lr_dense / 0.08``, so 0.08 reproduces the base settings. With the default schedule these are the paper's rates: 4, 4, 2
  and 1 times lr_dense.
- ``learning_rate_basis``: lr_feature, log [1e-3, 1e-1].
- ``kernel_sigma``: sigma, [0.35, 4], samples of the stage.
- ``num_basis``: J, 1 to 5.
- ``degree`` of a polynomial basis: 1 to 5, with the derivative as a second channel 1 to 3; an option of the measure.
- ``num_bins`` and ``quantile``: as for mutual information, 10 to 24 and [0, 0.05]; options of the measure. The intensity
  range is estimated once per stage.
- ``spacing``: stride of SRWCR's regions, 3 to 5; an option of the measure.

All other settings keep their base values. Measures that the paper did not tune use the parameters of the most similar
tuned measure.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

__all__ = ["MAX_DERIVATIVE_DEGREE", "MEASURES", "Parameter", "digits"]

SIGNIFICANT_DIGITS = 4  # of a tried value; more have no effect and make the preset harder to read


@dataclass(frozen=True)
class Parameter:
    """A parameter and its bounds.

    Args:
        name: name of the setting or option.
        low, high: smallest and largest value.
        log: whether to search on a logarithmic scale.
        step: step of integer parameters; 0 for real ones.
        paper: name in the paper; empty if the paper does not have it.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: int = 0
    paper: str = ""

    def within(self, low: float, high: float) -> Parameter:
        """The same parameter with other bounds.

        Raises:
            InputError: if the bounds are empty or not valid for this parameter.
        """
        said = f"range of {self.name}: {low:g} to {high:g}"
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"{said}; give two finite numbers, the smaller one first")
        if low < 0 or (self.log and low <= 0):
            raise InputError(f"{said}; {self.name} must be {'positive' if self.log else '0 or more'}")
        if self.step and (low % 1 or (high - low) % self.step):
            raise InputError(f"{said}; {self.name} is an integer with step {self.step}")
        return dataclasses.replace(self, low=int(low) if self.step else low, high=int(high) if self.step else high)

    def rounded(self, value: float) -> float | int:
        """The value rounded as in a trial."""
        return round(value) if self.step else digits(value)

    def holds(self, value: float) -> bool:
        """Whether a value lies between the bounds."""
        return self.low <= value <= self.high

    def unit(self, value: float) -> float:
        """The value mapped to [0, 1] between the bounds."""
        low, high, value = (math.log(x) if self.log else float(x) for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def to_dict(self) -> dict[str, Any]:
        """The bounds as JSON-serializable values."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


BENDING_WEIGHT = Parameter("bending_weight", 1e-1, 1e4, log=True, paper="reg")  # scaled by search_space, see above
AFFINE_RATE = Parameter("learning_rate_affine", 1e-3, 1e-1, log=True, paper="lr_affine")
DENSE_RATE = Parameter("learning_rate_dense", 1e-3, 1e-1, log=True, paper="lr_dense")
BASIS_RATE = Parameter("learning_rate_basis", 1e-3, 1e-1, log=True, paper="lr_feature")
KERNEL_SIGMA = Parameter("kernel_sigma", 0.35, 4.0, paper="sigma")
NUM_BASIS = Parameter("num_basis", 1, 5, step=1, paper="J")
POLYNOMIAL_DEGREE = Parameter("degree", 1, 5, step=1, paper="degree")
HISTOGRAM_BINS = Parameter("num_bins", 10, 24, step=1, paper="bins")
INTENSITY_QUANTILE = Parameter("quantile", 0.0, 0.05, paper="quantile")
REGION_SPACING = Parameter("spacing", 3, 5, step=1, paper="stride")
COMMON_PARAMETERS = (BENDING_WEIGHT, AFFINE_RATE, DENSE_RATE)


def _not_papers(*parameters: Parameter) -> tuple[Parameter, ...]:
    return tuple(dataclasses.replace(p, paper="") for p in parameters)


#: Parameters of each measure, as in the paper; the choice for the last four is ours.
MEASURES: dict[str, tuple[Parameter, ...]] = {
    "locor": (*COMMON_PARAMETERS, BASIS_RATE, KERNEL_SIGMA, NUM_BASIS),
    "locor, polynomial": (*COMMON_PARAMETERS, KERNEL_SIGMA, POLYNOMIAL_DEGREE),
    "mutual_information": (*COMMON_PARAMETERS, HISTOGRAM_BINS, INTENSITY_QUANTILE),
    "mind_ssc": COMMON_PARAMETERS,
    "srwcr": (*COMMON_PARAMETERS, REGION_SPACING),
    "normalized_mutual_information": _not_papers(*COMMON_PARAMETERS, HISTOGRAM_BINS, INTENSITY_QUANTILE),
    "correlation_ratio": _not_papers(*COMMON_PARAMETERS, HISTOGRAM_BINS, INTENSITY_QUANTILE),
    "local_parzen_cr": _not_papers(*COMMON_PARAMETERS, KERNEL_SIGMA, HISTOGRAM_BINS),
    "local_ncc": _not_papers(*COMMON_PARAMETERS, Parameter("kernel_size", 3, 15, step=2)),
}
MAX_DERIVATIVE_DEGREE = 3  # highest with the derivative as a second channel


def digits(value: float) -> float:
    """Round a number to the significant digits of a trial."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
