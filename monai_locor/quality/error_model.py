# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The calibrated model from local features to the expected error and its interval.

The logarithm of the error, in distances of the samples, is a linear function of the local features, as differences from their
typical values (medians over the determined nodes), and of the typical values. Expected error and bounds are monotone, piecewise
linear functions of this score. Coefficients and functions were fitted to registrations with a known error and are stored in
``error_model.json``, see ``benchmarks/error_map.py``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from .error_features import FEATURES

__all__ = ["MODEL_FILE", "ErrorModel"]

MODEL_FILE = "error_model.json"


@dataclass(frozen=True)
class ErrorModel:
    """The model.

    Attributes:
        low, high: limits of the typical values in the calibration, per feature, ``(F,)``; values beyond them are clipped.
        reach: largest difference from the typical value in the calibration, ``(F,)``; likewise.
        local: coefficients of the differences, ``(F,)``.
        typical: coefficients of the typical values, ``(F,)``.
        intercept: constant.
        scores: knots of the functions of the score, increasing.
        curves: expected error, lower and upper bound at the knots, logarithms, ``(3, knots)``.
    """

    low: np.ndarray
    high: np.ndarray
    reach: np.ndarray
    local: np.ndarray
    typical: np.ndarray
    intercept: float
    scores: np.ndarray
    curves: np.ndarray

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> ErrorModel:
        """From the content of :data:`MODEL_FILE`.

        Raises:
            ValueError: if it was made for other features.
        """
        if tuple(content["features"]) != FEATURES:
            raise ValueError(f"{MODEL_FILE} was made for the features {', '.join(content['features'])}; calibrate it again")
        names = ("low", "high", "reach", "local", "typical", "scores")
        arrays = {name: np.array(content[name], dtype=np.float64) for name in names}
        curves = np.array([content["curves"][name] for name in ("expected", "low", "high")], dtype=np.float64)
        return cls(**arrays, intercept=float(content["intercept"]), curves=curves)

    @classmethod
    @functools.cache
    def calibrated(cls) -> ErrorModel:
        """The model of the package."""
        return cls.of(json.loads(files(__package__).joinpath(MODEL_FILE).read_text(encoding="utf-8")))

    def score(self, values: torch.Tensor, determined: torch.Tensor) -> torch.Tensor:
        """The score of every node, ``(*lattice)``.

        Args:
            values: features, ``(F, *lattice)``.
            determined: nodes over which the typical values are taken, at least one, ``(*lattice)`` bool.
        """
        typical = values[:, determined].median(1).values
        low, high, reach, local, common = (
            self._column(x, values) for x in (self.low, self.high, self.reach, self.local, self.typical)
        )
        apart = (values.flatten(1) - typical[:, None]).clamp(-reach, reach)
        constant = (common * typical[:, None].clamp(low, high)).sum() + self.intercept
        return ((local * apart).sum(0) + constant).reshape(values.shape[1:])

    @staticmethod
    def _column(numbers: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(numbers[:, None]).to(like, non_blocking=True)

    def errors(self, score: torch.Tensor) -> torch.Tensor:
        """Expected error, lower and upper bound, ``(3, *any)``, in distances of the samples."""
        return torch.stack([_interpolated(score, self.scores, curve) for curve in self.curves]).exp()


def _interpolated(x: torch.Tensor, knots: Sequence[float] | np.ndarray, values: np.ndarray) -> torch.Tensor:
    """Piecewise linear function, constant beyond its knots."""
    out = torch.full_like(x, float(values[0]))
    for k in range(len(knots) - 1):
        step = float(knots[k + 1] - knots[k])
        out += ((x - float(knots[k])) / step).clamp(0, 1) * float(values[k + 1] - values[k])
    return out
