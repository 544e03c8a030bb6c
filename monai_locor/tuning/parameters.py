# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What is searched for every measure: the paper's parameters and bounds, and what they are in our settings.

- ``bending_weight``: the paper's reg, log [0.1, 1e4], divided by ``2 n^2`` for images of n dimensions: the paper takes
  ``1 / n^2`` of the bending energy, and only one of the two directions, which are averaged, has it.
- ``learning_rate_affine``: lr_affine, log [1e-3, 1e-1]; affine stages with rates of their own keep their ratio to it.
- ``learning_rate_dense``: lr_dense, log [1e-3, 1e-1]: the rates of all deformable stages are multiplied by
  ``lr_dense / 0.08``, so that 0.08 leaves them as the base settings have them. With the default schedule these are the
  paper's, 4, 4, 2 and 1 times lr_dense.
- ``learning_rate_basis``: lr_feature, log [1e-3, 1e-1].
- ``kernel_sigma``: sigma, [0.35, 4], samples of the stage.
- ``num_basis``: J, 1 to 5.
- ``degree`` of a polynomial basis: 1 to 5, with the derivative as a second channel 1 to 3; an option of the measure.
- ``num_bins`` and ``quantile``: those of mutual information, 10 to 24 and [0, 0.05]; options of the measure. The range is
  found once a stage.
- ``spacing``: stride of SRWCR's regions, 3 to 5; an option of the measure.

Everything else stays as the base settings have it. The measures that the paper has not tuned have the parameters of those
that are most like them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

__all__ = ["DERIVATIVE_DEGREE", "MEASURES", "Parameter", "digits"]

DIGITS = 4  # of a value that is tried: more mean nothing, and a preset is easier to read


@dataclass(frozen=True)
class Parameter:
    """One parameter and where it may lie.

    Args:
        name: of the parameter.
        low, high: its smallest and largest value.
        log: whether it is searched along its logarithm.
        step: distance of its values where they are whole numbers, else 0.
        paper: its name in the paper, empty where it is not the paper's.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: int = 0
    paper: str = ""

    def within(self, low: float, high: float) -> Parameter:
        """The same between other bounds.

        Raises:
            InputError: when there is nothing between them, or they are not of its kind.
        """
        said = f"range of {self.name}: {low:g} to {high:g}"
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"{said}; give two numbers, the smaller one first")
        if low < 0 or (self.log and low <= 0):
            raise InputError(f"{said}; {self.name} is {'positive' if self.log else '0 or more'}")
        if self.step and (low % 1 or (high - low) % self.step):
            raise InputError(f"{said}; {self.name} counts in steps of {self.step}")
        return dataclasses.replace(self, low=int(low) if self.step else low, high=int(high) if self.step else high)

    def rounded(self, value: float) -> float | int:
        """A value as it is tried."""
        return round(value) if self.step else digits(value)

    def holds(self, value: float) -> bool:
        """Whether a value lies between the bounds."""
        return self.low <= value <= self.high

    def unit(self, value: float) -> float:
        """Where a value lies between the bounds, 0 to 1."""
        low, high, value = (math.log(x) if self.log else float(x) for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


BENDING = Parameter("bending_weight", 1e-1, 1e4, log=True, paper="reg")  # the paper's, see above
AFFINE = Parameter("learning_rate_affine", 1e-3, 1e-1, log=True, paper="lr_affine")
DENSE = Parameter("learning_rate_dense", 1e-3, 1e-1, log=True, paper="lr_dense")
BASIS = Parameter("learning_rate_basis", 1e-3, 1e-1, log=True, paper="lr_feature")
SIGMA = Parameter("kernel_sigma", 0.35, 4.0, paper="sigma")
NUM_BASIS = Parameter("num_basis", 1, 5, step=1, paper="J")
DEGREE = Parameter("degree", 1, 5, step=1, paper="degree")
BINS = Parameter("num_bins", 10, 24, step=1, paper="bins")
QUANTILE = Parameter("quantile", 0.0, 0.05, paper="quantile")
SPACING = Parameter("spacing", 3, 5, step=1, paper="stride")
COMMON = (BENDING, AFFINE, DENSE)


def _not_papers(*parameters: Parameter) -> tuple[Parameter, ...]:
    return tuple(dataclasses.replace(p, paper="") for p in parameters)


#: Parameters of every measure, as in the paper; those of the last four are ours.
MEASURES: dict[str, tuple[Parameter, ...]] = {
    "locor": (*COMMON, BASIS, SIGMA, NUM_BASIS),
    "locor, polynomial": (*COMMON, SIGMA, DEGREE),
    "mutual_information": (*COMMON, BINS, QUANTILE),
    "mind_ssc": COMMON,
    "srwcr": (*COMMON, SPACING),
    "normalized_mutual_information": _not_papers(*COMMON, BINS, QUANTILE),
    "correlation_ratio": _not_papers(*COMMON, BINS, QUANTILE),
    "local_parzen_cr": _not_papers(*COMMON, SIGMA, BINS),
    "local_ncc": _not_papers(*COMMON, Parameter("kernel_size", 3, 15, step=2)),
}
DERIVATIVE_DEGREE = 3  # highest with the derivative as a second channel


def digits(value: float) -> float:
    """A number with as many digits as mean something."""
    return float(f"{value:.{DIGITS}g}")
